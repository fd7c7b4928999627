/* Files and folders that appear whole or not at all: written under a temporary name in the same directory, synced, renamed. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/llm/convert_internal.h"

/* What a folder may hold: the names that are written into it. */
static const char *const names[] = { "config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "model.safetensors" };

enum status convert_target_open(struct convert_target *t, const char *path, bool folder, struct err *err)
{
    size_t n = strlen(path);
    struct stat s;
    *t = (struct convert_target){ .fd = -1, .folder = folder };
    while (folder && n > 1 && path[n - 1] == '/') n--;
    if (n >= sizeof t->path) return err_set(err, ST_BAD_INPUT, "a target's path of %zu bytes", n);
    snprintf(t->path, sizeof t->path, "%.*s", (int)n, path);
    if (folder && !stat(t->path, &s)) return err_set(err, ST_EXISTS, "'%.300s' is there already: a folder is written under a new name", t->path);
    snprintf(t->temporary, sizeof t->temporary, "%s.part-%ld", t->path, (long)getpid());
    if (folder && mkdir(t->temporary, 0777)) return err_set(err, ST_NOT_FOUND, "the folder '%.300s' cannot be made: %s", t->temporary, strerror(errno));
    if (!folder && (t->fd = open(t->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666)) < 0) return err_set(err, ST_NOT_FOUND, "'%.300s' cannot be written: %s", t->temporary, strerror(errno));
    return ST_OK;
}

enum status convert_target_close_file(struct convert_target *t, struct err *err)
{
    bool ok = fsync(t->fd) == 0;
    ok = close(t->fd) == 0 && ok;
    t->fd = -1;
    return ok ? ST_OK : err_set(err, ST_NO_SPACE, "'%.300s' cannot be written to the end: %s", t->temporary, strerror(errno));
}

enum status convert_target_file(struct convert_target *t, const char *name, const void *bytes, size_t length, struct err *err)
{
    char path[4400];
    snprintf(path, sizeof path, "%s/%s", t->temporary, name);
    t->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (t->fd < 0) return err_set(err, ST_NO_SPACE, "'%.300s' cannot be written: %s", path, strerror(errno));
    if (!length) return ST_OK;
    struct weights_sink sink = weights_sink_fd(&t->fd);
    if (!sink.write(sink.ctx, bytes, length)) return err_set(err, ST_NO_SPACE, "'%.300s' cannot be written", path);
    return convert_target_close_file(t, err);
}

enum status convert_target_finish(struct convert_target *t, struct err *err)
{
    enum status st = t->fd >= 0 ? convert_target_close_file(t, err) : ST_OK;
    if (!st && rename(t->temporary, t->path)) st = err_set(err, ST_NO_SPACE, "'%.300s' cannot be given its name: %s", t->path, strerror(errno));
    if (st) convert_target_abandon(t);
    return st;
}

void convert_target_abandon(struct convert_target *t)
{
    char path[4400];
    if (t->fd >= 0) close(t->fd);
    t->fd = -1;
    if (!t->folder) {
        unlink(t->temporary);
        return;
    }
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        snprintf(path, sizeof path, "%s/%s", t->temporary, names[i]);
        unlink(path);
    }
    rmdir(t->temporary);
}
