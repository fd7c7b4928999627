/* What inferd inspect shows of a language model. */
#ifndef SERVER_COMMAND_CONVERT_H
#define SERVER_COMMAND_CONVERT_H

/* path: a .gguf file or a folder with config.json. The exit status. */
int command_inspect_text(const char *path);

#endif
