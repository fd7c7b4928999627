#include "model_store/manifest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "base/file.h"
#include "base/hex.h"

enum { MESSAGE_MAX = 320 };

struct signer { uint8_t key[SIGNING_KEY_BYTES]; char name[SIGNER_NAME_MAX]; };
struct signers { struct signer all[SIGNERS_MAX]; int count; };

/* One line of two words; false at the end of the text. Words that are too long come out empty. */
static bool next_pair(char **text, char **first, char **second, int *line)
{
    while (*text) {
        char *at = *text, *end = strchr(at, '\n');
        *text = end ? end + 1 : NULL;
        if (end) *end = 0;
        ++*line;
        *first = strtok_r(at, " \t\r", &at);
        if (!*first || **first == '#') continue;
        *second = strtok_r(NULL, " \t\r", &at);
        if (!*second) *second = *first + strlen(*first);
        return true;
    }
    return false;
}

enum status signers_open(struct signers **out, const char *path, struct err *err)
{
    char *text, *at, *key, *name;
    size_t length;
    int line = 0;
    enum status st = file_read_path(&text, &length, path, MANIFEST_BYTES_MAX, err);
    if (st) return st;
    struct signers *s = mem_calloc_array(1, sizeof *s);
    if (!s) st = err_set(err, ST_NO_MEMORY, "no memory for the trusted signers");
    at = text;
    while (!st && next_pair(&at, &key, &name, &line)) {
        if (s->count == SIGNERS_MAX) st = err_set(err, ST_BAD_INPUT, "%s names more than %d signers", path, SIGNERS_MAX);
        else if (!hex_read(key, strlen(key), s->all[s->count].key, SIGNING_KEY_BYTES)) st = err_set(err, ST_BAD_INPUT, "%s line %d: a public key is 64 lower-case hexadecimal digits", path, line);
        else if (!*name || strlen(name) >= SIGNER_NAME_MAX) st = err_set(err, ST_BAD_INPUT, "%s line %d: a signer needs a name of at most %d bytes", path, line, SIGNER_NAME_MAX - 1);
        else strcpy(s->all[s->count++].name, name);
    }
    if (!st && !s->count) st = err_set(err, ST_BAD_INPUT, "%s names no signer", path);
    free(text);
    if (st) free(s);
    else *out = s;
    return st;
}

void signers_close(struct signers *s) { free(s); }

static int message_of(const char *model, const char *digest, char out[MESSAGE_MAX]) { return snprintf(out, MESSAGE_MAX, "inferd model manifest v1\n%.128s\n%.64s\n", model, digest); }

static const struct signer *find(const struct signers *s, const uint8_t key[SIGNING_KEY_BYTES])
{
    for (int k = 0; k < s->count; k++)
        if (!memcmp(s->all[k].key, key, SIGNING_KEY_BYTES)) return &s->all[k];
    return NULL;
}

enum status manifest_check(const struct signers *s, bool required, struct repository *r, const char *model, int64_t version, const char *digest, char signer[SIGNER_NAME_MAX], struct err *err)
{
    char *text = NULL, *at, *key, *signature, message[MESSAGE_MAX], path[64];
    size_t length;
    int line = 0;
    bool trusted = false, holds = false;
    *signer = 0;
    if (!s) return ST_OK;
    snprintf(path, sizeof path, "%lld/" MANIFEST_FILE, (long long)version);
    enum status st = repository_read_file(r, model, 0, path, MANIFEST_BYTES_MAX, &text, &length, err);
    if (st == ST_NOT_FOUND) return required ? err_set(err, ST_FORBIDDEN, "it is not signed (there is no " MANIFEST_FILE "), and this server loads signed models only") : ST_OK;
    if (st) return st;
    const int bytes = message_of(model, digest, message);
    at = text;
    while (!holds && next_pair(&at, &key, &signature, &line)) {
        uint8_t k[SIGNING_KEY_BYTES], sig[SIGNATURE_BYTES];
        if (!hex_read(key, strlen(key), k, sizeof k) || !hex_read(signature, strlen(signature), sig, sizeof sig)) continue;
        const struct signer *who = find(s, k);
        trusted |= who != NULL;
        holds = who && signing_verify(k, message, (size_t)bytes, sig);
        if (holds) strcpy(signer, who->name);
    }
    free(text);
    if (holds) return ST_OK;
    return err_set(err, ST_FORBIDDEN, trusted ? "its signature is not one of these files under this name: they were changed after they were signed" : "it is signed by nobody whom this server trusts");
}

void manifest_line(const uint8_t secret[SIGNING_KEY_BYTES], const char *model, const char *digest, char out[2 * SIGNING_KEY_BYTES + 2 * SIGNATURE_BYTES + 3])
{
    uint8_t key[SIGNING_KEY_BYTES], signature[SIGNATURE_BYTES];
    char message[MESSAGE_MAX];
    const int bytes = message_of(model, digest, message);
    signing_public_key(secret, key);
    signing_sign(secret, message, (size_t)bytes, signature);
    hex_write(key, sizeof key, out);
    out[2 * SIGNING_KEY_BYTES] = ' ';
    hex_write(signature, sizeof signature, out + 2 * SIGNING_KEY_BYTES + 1);
    strcat(out, "\n");
}
