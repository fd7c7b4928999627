/* What inferd inspect shows of a language model; the part of inferd quantize that is of networks. */
#ifndef SERVER_COMMAND_CONVERT_H
#define SERVER_COMMAND_CONVERT_H

/* path: a .gguf file or a folder with config.json. The exit status. */
int command_inspect_text(const char *path);
/* inferd quantize MODEL --calibrate DIR (command_int8.c). The exit status. */
int command_int8(int argc, char **argv);
extern const char *const command_int8_usage;

#endif
