/* `inferd sign`: makes a signer's key, and signs a version of a store (model_store/manifest.h). */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hex.h"
#include "base/log.h"
#include "model_store/manifest.h"
#include "model_store/model_config.h"
#include "server/commands.h"

static void usage(FILE *to)
{
    fprintf(to, "usage: inferd sign --new-key FILE\n       inferd sign STORE/MODEL/VERSION --key FILE\n"
                "The first makes a secret key and prints the public one, for a line \"KEY NAME\" of the server's --trusted-signers. The second adds a signature of the version's files, as\n"
                "MODEL, to its " MANIFEST_FILE ".\n");
}

static enum status write_new(const char *path, int flags, mode_t mode, const char *text, struct err *err)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC | flags, mode);
    const size_t n = strlen(text);
    bool ok = fd >= 0 && write(fd, text, n) == (ssize_t)n && !fsync(fd);
    int cause = errno;
    if (fd >= 0) close(fd);
    return ok ? ST_OK : err_set(err, ST_INTERNAL, "'%.300s' cannot be written: %s", path, strerror(cause));
}

static enum status new_key(const char *path, struct err *err)
{
    uint8_t secret[SIGNING_KEY_BYTES], key[SIGNING_KEY_BYTES];
    char text[2 * SIGNING_KEY_BYTES + 2];
    if (getrandom(secret, sizeof secret, 0) != sizeof secret) return err_set(err, ST_INTERNAL, "no random bytes: %s", strerror(errno));
    hex_write(secret, sizeof secret, text);
    strcat(text, "\n");
    enum status st = write_new(path, O_CREAT | O_EXCL, 0600, text, err);
    if (st) return st;
    signing_public_key(secret, key);
    hex_write(key, sizeof key, text);
    printf("%s\n", text);
    return ST_OK;
}

static enum status read_key(const char *path, uint8_t secret[SIGNING_KEY_BYTES], struct err *err)
{
    char *text;
    size_t length;
    enum status st = file_read_path(&text, &length, path, 4096, err);
    if (st) return st;
    while (length && (text[length - 1] == '\n' || text[length - 1] == '\r')) length--;
    if (!hex_read(text, length, secret, SIGNING_KEY_BYTES)) st = err_set(err, ST_BAD_INPUT, "'%.300s' holds no secret key: 64 lower-case hexadecimal digits are expected", path);
    explicit_bzero(text, length);
    free(text);
    return st;
}

/* The last two names of the path are model and version; what is before them is the store. */
static enum status split(char *path, const char **store, const char **model, int64_t *version, struct err *err)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') path[--n] = 0;
    char *last = strrchr(path, '/');
    if (!last || !model_version_parse(last + 1, strlen(last + 1), version)) return err_set(err, ST_BAD_INPUT, "'%.300s' is not STORE/MODEL/VERSION", path);
    *last = 0;
    char *name = strrchr(path, '/');
    *store = name ? path : ".";
    *model = name ? name + 1 : path;
    if (name) *name = 0;
    return model_name_valid(*model, strlen(*model)) ? ST_OK : err_set(err, ST_BAD_INPUT, "'%.130s' is no model name", *model);
}

static enum status sign(char *path, const char *key_path, struct err *err)
{
    uint8_t secret[SIGNING_KEY_BYTES];
    char digest[65], line[2 * SIGNING_KEY_BYTES + 2 * SIGNATURE_BYTES + 3], file[4400];
    const char *store = ".", *model = "";
    int64_t version = 0;
    struct repository *r = NULL;
    struct log *log = log_open(2);
    enum status st = log ? split(path, &store, &model, &version, err) : err_set(err, ST_NO_MEMORY, "no memory for the log");
    if (!st) st = read_key(key_path, secret, err);
    if (!st) st = repository_open(&r, *store ? store : "/", log, err);
    if (!st) st = repository_digest(r, model, version, digest, NULL, NULL, err);
    if (!st) {
        manifest_line(secret, model, digest, line);
        snprintf(file, sizeof file, "%.4096s/%s/%" PRId64 "/" MANIFEST_FILE, repository_root(r), model, version);
        st = write_new(file, O_CREAT | O_APPEND | O_NOFOLLOW, 0644, line, err);
    }
    if (!st) printf("%s version %" PRId64 ", digest %.16s, signed by %.64s\n", model, version, digest, line);
    explicit_bzero(secret, sizeof secret);
    repository_close(r);
    log_close(log);
    return st;
}

int command_sign(int argc, char **argv)
{
    const char *fresh = NULL, *key = NULL;
    char *path = NULL;
    struct err err = { 0 };
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--help")) return usage(stdout), 0;
        if (!strcmp(argv[i], "--new-key") && i + 1 < argc) fresh = argv[++i];
        else if (!strcmp(argv[i], "--key") && i + 1 < argc) key = argv[++i];
        else if (argv[i][0] != '-' && !path) path = argv[i];
        else return usage(stderr), 2;
    }
    if (!fresh == !(path && key)) return usage(stderr), 2;
    if (!(fresh ? new_key(fresh, &err) : sign(path, key, &err))) return 0;
    fprintf(stderr, "inferd sign: %s\n", err.text);
    return 1;
}
