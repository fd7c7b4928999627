/* The command line's first word. The launcher part sets what the OpenMP run-time reads when it is loaded, then starts the program again. */
#include "server/commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct { const char *name; int (*run)(int argc, char **argv); const char *help; } commands[] = {
    { "serve", command_serve, "serve the models of a store over HTTP" },
    { "health", command_health, "is the server on this machine ready?" },
    { "check", command_check, "run models on stored inputs and compare with stored outputs" },
    { "run", command_run, "one inference from files" },
    { "inspect", command_inspect, "what a model file holds and which kernels will run it" },
    { "bench", command_bench, "timed runs of one model" },
    { "generate", command_generate, "text from a language model" },
    { "draw", command_draw, "a picture from a sentence" },
    { "render", command_render, "a conversation on standard input through a chat template" },
    { "tokenize", command_tokenize, "text on standard input to token ids" },
    { "logits", command_logits, "a language model's output for given tokens, as .npy" },
    { "convert", command_convert, "a language model from one format to another" },
    { "sign", command_sign, "vouch for a model version's files (Ed25519)" },
    { "quantize", command_quantize, "a language model with smaller weights, or a network in 8 bits (--calibrate)" },
};
enum { COMMANDS = sizeof commands / sizeof commands[0] };

static void print_help(FILE *out)
{
    fprintf(out, "inferd " INFERD_VERSION ", an inference server\n\nusage: inferd COMMAND [arguments]; inferd COMMAND --help says more\n\n");
    for (int i = 0; i < COMMANDS; i++) fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].help);
    fprintf(out, "\nexample: inferd serve --store models\n         curl --data-binary @models/digits/samples/7_0.png 'http://127.0.0.1:8000/v2/models/digits/classify?k=1'\n");
}

/* Idle OpenMP threads spin only briefly before they sleep, so that an idle server costs nothing and a listener gets its core; each team stays where
 * its worker was pinned. Read once when the run-time is loaded, which is before main: hence the second start. */
static void launch(char **argv)
{
    if (getenv("INFERD_LAUNCHED")) return;
    setenv("INFERD_LAUNCHED", "1", 1);
    setenv("OMP_PROC_BIND", "false", 0);
    setenv("OMP_DYNAMIC", "false", 0);
    setenv("GOMP_SPINCOUNT", "4000", 0);
    char path[4096];      /* by its own path, so that the process keeps the name that pidof and ps look for */
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n <= 0) return;
    path[n] = 0;
    execv(path, argv);      /* when it fails the defaults serve as well */
}

int main(int argc, char **argv)
{
    if (argc < 2 || !strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
        print_help(argc < 2 ? stderr : stdout);
        return argc < 2 ? 2 : 0;
    }
    if (!strcmp(argv[1], "--version")) {
        puts("inferd " INFERD_VERSION);
        return 0;
    }
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(argv[1], commands[i].name)) continue;
        launch(argv);
        unsetenv("INFERD_LAUNCHED");
        return commands[i].run(argc - 1, argv + 1);
    }
    fprintf(stderr, "inferd: there is no command '%s'; inferd --help lists them\n", argv[1]);
    return 2;
}
