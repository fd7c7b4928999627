#include "engine/signature.h"

#include <string.h>

static const struct port *find(const struct port *ports, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(ports[i].name, name) == 0) return &ports[i];
    return NULL;
}

const struct port *signature_input(const struct signature *s, const char *name) { return find(s->inputs, s->input_count, name); }
const struct port *signature_output(const struct signature *s, const char *name) { return find(s->outputs, s->output_count, name); }
