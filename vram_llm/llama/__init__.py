"""The only floor that speaks to llama.cpp. Everything here may abort the process: keep it out of the server's."""
