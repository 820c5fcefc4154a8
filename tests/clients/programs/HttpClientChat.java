import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/**
 * The JDK's HttpClient as it is by default, which offers HTTP/2 (h2c) with the first request and its body. Spring AI
 * and langchain4j are built on it. Arguments and output: see tests/clients/conversation.py.
 */
class HttpClientChat {
    static final HttpClient CLIENT = HttpClient.newHttpClient();
    static final Pattern CONTENT = Pattern.compile("\"content\":(\"(?:[^\"\\\\]|\\\\.)*\")");
    static final Pattern ID = Pattern.compile("\"id\":\"(call_[^\"]+|[^\"]{9})\"");
    static final Pattern ARGUMENTS = Pattern.compile("\"arguments\":\"((?:[^\"\\\\]|\\\\.)*)\"");
    static final String TOOLS = ",\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"get_weather\","
        + "\"description\":\"Weather of a city\",\"parameters\":{\"type\":\"object\","
        + "\"properties\":{\"city\":{\"type\":\"string\"}},\"required\":[\"city\"]}}}]";
    static final String RESULT = "{\\\"city\\\": \\\"Paris\\\", \\\"temperature\\\": 18, \\\"sky\\\": \\\"sunny\\\"}";
    static String url;
    static String model;

    public static void main(String[] args) throws Exception {
        url = args[0];
        model = args[1];
        String question = user(args[2]);
        String task = user(args[3]);
        System.out.println("{\"plain\":" + content(whole(question, ""))
            + ",\"streamed\":" + contents(lines(question, ""))
            + ",\"tool\":" + content(whole(answered(task, List.of(whole(task, TOOLS))), TOOLS))
            + ",\"tool_streamed\":" + contents(lines(answered(task, lines(task, TOOLS)), TOOLS)) + "}");
    }

    static HttpRequest request(String messages, String more) {
        String body = "{\"model\":" + quoted(model) + ",\"temperature\":0,\"messages\":[" + messages + "]" + more + "}";
        return HttpRequest.newBuilder(URI.create(url + "/v1/chat/completions"))
            .header("Content-Type", "application/json").header("Authorization", "Bearer none")
            .POST(HttpRequest.BodyPublishers.ofString(body)).build();
    }

    static String whole(String messages, String more) throws Exception {
        return checked(CLIENT.send(request(messages, more), HttpResponse.BodyHandlers.ofString()));
    }

    static List<String> lines(String messages, String more) throws Exception {
        HttpRequest request = request(messages, more + ",\"stream\":true");
        List<String> lines = checked(CLIENT.send(request, HttpResponse.BodyHandlers.ofLines()))
            .filter(line -> !line.isEmpty()).collect(Collectors.toList());
        if (!lines.get(lines.size() - 1).equals("data: [DONE]")) {
            throw new IllegalStateException("the stream ends with " + lines.get(lines.size() - 1));
        }
        return lines;
    }

    static <T> T checked(HttpResponse<T> response) {
        if (response.statusCode() != 200) {
            throw new IllegalStateException(response.statusCode() + " " + response.body());
        }
        return response.body();
    }

    /** The task, the call that is in `reply`, and its result. */
    static String answered(String task, List<String> reply) {
        StringBuilder arguments = new StringBuilder();
        String id = null;
        for (String line : reply) {
            Matcher found = ID.matcher(line);
            id = id == null && found.find() ? found.group(1) : id;
            Matcher part = ARGUMENTS.matcher(line);
            while (part.find()) {
                arguments.append(part.group(1));
            }
        }
        if (!arguments.toString().replace(" ", "").equals("{\\\"city\\\":\\\"Paris\\\"}")) {
            throw new IllegalStateException("arguments: " + arguments);
        }
        return task + ",{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":" + quoted(id)
            + ",\"type\":\"function\",\"function\":{\"name\":\"get_weather\",\"arguments\":\"" + arguments + "\"}}]}"
            + ",{\"role\":\"tool\",\"tool_call_id\":" + quoted(id) + ",\"content\":\"" + RESULT + "\"}";
    }

    static String user(String text) {
        return "{\"role\":\"user\",\"content\":" + quoted(text) + "}";
    }

    static String quoted(String text) {
        return '"' + text.replace("\\", "\\\\").replace("\"", "\\\"") + '"';
    }

    static String content(String reply) {
        Matcher found = CONTENT.matcher(reply);
        return found.find() ? found.group(1) : "null";
    }

    static String contents(List<String> lines) {
        List<String> pieces = new ArrayList<>();
        for (String line : lines) {
            String piece = content(line);
            if (!piece.equals("null") && !piece.equals("\"\"")) {
                pieces.add(piece);
            }
        }
        return pieces.toString();
    }
}
