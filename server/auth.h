/* Who may do what (R1, R2, R4), and how much of it in a minute. Keys come as `Authorization: Bearer KEY`; the file holds their SHA-256 digests, compared in constant time. */
#ifndef SERVER_AUTH_H
#define SERVER_AUTH_H

#include <stdbool.h>
#include <stdint.h>

#include "api/routes.h"
#include "base/err.h"

enum { AUTH_KEYS_MAX = 4096, AUTH_NAME_MAX = 64, AUTH_QUOTA_MAX = 1000000000 };

struct auth;

/* `keys_path` NULL: no keys. `open`: without keys everything is allowed (loopback, or --insecure-no-auth). */
enum status auth_open(struct auth **out, const char *keys_path, bool open, struct err *err);
void        auth_close(struct auth *a);
enum status auth_reload(struct auth *a, struct err *err);       /* reads the file again; on failure the old keys stay */

/* `authorization` is the header's value or NULL. ST_OK and the key's name in `who`; ST_UNAUTHENTICATED; ST_FORBIDDEN: a key, but without that scope. */
enum status auth_check(struct auth *a, const char *authorization, enum scope scope, char who[AUTH_NAME_MAX], struct err *err);

/* Counts one inference of the key that auth_check named; ST_TOO_MANY when its requests or tokens of this minute are used up. `now_ns`: CLOCK_MONOTONIC. */
enum status auth_charge(struct auth *a, const char *who, uint64_t now_ns, struct err *err);
/* Tokens that a text has read and written, once it has ended: they count against what comes after it. */
void        auth_spend(struct auth *a, const char *who, uint64_t tokens, uint64_t now_ns);

bool auth_is_loopback(const char *numeric_address);
/* DNS rebinding: is this Host header (with or without a port) localhost, a loopback address, or one of the comma-separated `allowed`? */
bool auth_host_allowed(const char *host, const char *allowed);
/* A browser's Origin header names the site that made it call: only our own (localhost and the like, or allowed) may change state. */
bool auth_origin_allowed(const char *origin, const char *allowed);

#endif
