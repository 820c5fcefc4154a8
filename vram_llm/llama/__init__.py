"""The only floor that speaks to llama.cpp. All of it may abort the process: keep it out of the server's."""
