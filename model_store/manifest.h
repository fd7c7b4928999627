/* Signed model versions: MODEL/VERSION/manifest.sig holds lines "<public key> <signature>" in hexadecimal, of which one must be a trusted signer's. Signed (Ed25519) are the
 * bytes "inferd model manifest v1 LF <model> LF <digest> LF", where the digest is that of the version (repository_digest), which leaves manifest.sig out: a
 * signature vouches for every byte of the version and for the name it is served under. */
#ifndef MODEL_STORE_MANIFEST_H
#define MODEL_STORE_MANIFEST_H

#include "base/err.h"
#include "base/signing.h"
#include "model_store/repository.h"

enum { SIGNERS_MAX = 256, SIGNER_NAME_MAX = 64, MANIFEST_BYTES_MAX = 1 << 16 };

struct signers;

/* Lines "<public key> name"; empty lines and those that begin with # are passed over. ST_BAD_INPUT names file and line. */
enum status signers_open(struct signers **out, const char *path, struct err *err);
void        signers_close(struct signers *s);

/* `signer` receives the name of the one who vouches, "" when the version is not signed and need not be. ST_FORBIDDEN: it must be and is not, or by nobody trusted, or
 * what was signed is something else. `s` NULL: nobody is asked. */
enum status manifest_check(const struct signers *s, bool required, struct repository *r, const char *model, int64_t version, const char *digest, char signer[SIGNER_NAME_MAX], struct err *err);

/* The line that vouches for `digest` as `model`, with its line feed. */
void manifest_line(const uint8_t secret[SIGNING_KEY_BYTES], const char *model, const char *digest, char out[2 * SIGNING_KEY_BYTES + 2 * SIGNATURE_BYTES + 3]);

#endif
