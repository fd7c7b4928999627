/* The commands of the command line. argv[0] is the command's name; the return value is the exit status: 0 done, 1 failed, 2 wrong arguments. */
#ifndef SERVER_COMMANDS_H
#define SERVER_COMMANDS_H

int command_serve(int argc, char **argv);
int command_health(int argc, char **argv);
int command_check(int argc, char **argv);
int command_run(int argc, char **argv);
int command_inspect(int argc, char **argv);
int command_bench(int argc, char **argv);
int command_generate(int argc, char **argv);
int command_tokenize(int argc, char **argv);
int command_logits(int argc, char **argv);
int command_render(int argc, char **argv);
int command_convert(int argc, char **argv);
int command_quantize(int argc, char **argv);
int command_draw(int argc, char **argv);

#endif
