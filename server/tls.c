#include "server/tls.h"

#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PEM_MAX = 1 << 20, CHAIN_MAX = 16, RSA_BITS_MIN = 2048, NAME_BYTES = 256 };
enum { FILE_CERT, FILE_KEY, FILE_CLIENT_CA, FILES };

/* Forward secrecy, authenticated ciphers, no SHA-1, no anonymous or pre-shared keys. */
static const char PRIORITIES[] = "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-KX-ALL:+ECDHE-ECDSA:+ECDHE-RSA:-CIPHER-ALL:+AES-256-GCM:+CHACHA20-POLY1305:+AES-128-GCM:-MAC-ALL:+AEAD:%SERVER_PRECEDENCE";

struct tls_secrets {
    atomic_int                       holders;
    gnutls_certificate_credentials_t credentials;
};

/* What tells one state of a file from another; a mounted secret is replaced by changing a link, so the inode counts. */
struct mark { dev_t device; ino_t inode; off_t size; struct timespec changed; bool there; };

struct tls {
    const char          *paths[FILES];      /* borrowed; NULL: no such file */
    struct log          *log;
    gnutls_priority_t    priorities;
    pthread_mutex_t      lock;              /* guards `now` */
    struct tls_identity *now;
    uint64_t             read_count;
    struct mark          read[FILES], seen[FILES];      /* when they were read last, and at the last look; tls_refresh's own */
};

/* ---- files ---- */

static struct mark mark_of(const char *path)
{
    struct stat s;
    if (!path || stat(path, &s)) return (struct mark){ 0 };
    return (struct mark){ s.st_dev, s.st_ino, s.st_size, s.st_mtim, true };
}

static bool same_marks(const struct mark *a, const struct mark *b)
{
    for (int i = 0; i < FILES; i++)
        if (a[i].device != b[i].device || a[i].inode != b[i].inode || a[i].size != b[i].size || a[i].changed.tv_sec != b[i].changed.tv_sec || a[i].changed.tv_nsec != b[i].changed.tv_nsec || a[i].there != b[i].there) return false;
    return true;
}

static void look(const struct tls *t, struct mark *marks)
{
    for (int i = 0; i < FILES; i++) marks[i] = mark_of(t->paths[i]);
}

/* As other servers have it: a key of ours is for us alone; one that root keeps for a group of services may be read by that group. */
static enum status check_key_mode(const struct stat *s, const char *path, struct err *err)
{
    if (s->st_uid != geteuid() && s->st_uid != 0) return err_set(err, ST_FORBIDDEN, "%s belongs to another user than the server or root", path);
    mode_t most = s->st_uid == 0 ? 0740 : 0700;
    if ((s->st_mode & 0777 & ~most) == 0) return ST_OK;
    return err_set(err, ST_FORBIDDEN, "%s can be read or changed by others (mode %03o): a key's mode is 0600, or 0640 when root owns it", path, (unsigned)(s->st_mode & 0777));
}

static enum status read_pem(char **out, const char *path, bool is_key, struct err *err)
{
    struct stat s;
    size_t length;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) return err_set(err, ST_NOT_FOUND, "%s cannot be opened: %s", path, strerror(errno));
    enum status st = fstat(fd, &s) || !S_ISREG(s.st_mode) ? err_set(err, ST_BAD_INPUT, "%s is not a regular file", path) : is_key ? check_key_mode(&s, path, err) : ST_OK;
    if (!st) st = file_read_fd(out, &length, fd, PEM_MAX, err);
    close(fd);
    if (st) return st;
    if (strlen(*out) == length && strstr(*out, "-----BEGIN ")) return ST_OK;
    free(*out);
    *out = NULL;
    return err_set(err, ST_BAD_INPUT, "%s is not a PEM file: it has no line -----BEGIN ...-----", path);
}

/* ---- identities ---- */

static void wipe(char *text)
{
    if (text) explicit_bzero(text, strlen(text));
    free(text);
}

static void identity_free(struct tls_identity *i)
{
    if (i->secrets && i->secrets->credentials) gnutls_certificate_free_credentials(i->secrets->credentials);
    free(i->secrets);
    free(i->cert);
    wipe(i->key);
    free(i->client_ca);
    free(i);
}

/* The chain's first certificate: what it is called and until when it holds; what no client would take is refused. */
static enum status check_leaf(const struct tls *t, const char *pem, char *name, size_t size, time_t *until, struct err *err)
{
    gnutls_x509_crt_t chain[CHAIN_MAX];
    unsigned count = CHAIN_MAX, bits = 0;
    gnutls_datum_t d = { (unsigned char *)pem, (unsigned)strlen(pem) };
    int e = gnutls_x509_crt_list_import(chain, &count, &d, GNUTLS_X509_FMT_PEM, GNUTLS_X509_CRT_LIST_IMPORT_FAIL_IF_EXCEED);
    if (e < 1) return err_set(err, ST_BAD_INPUT, "%s holds no certificate that can be read, or more than %d: %s", t->paths[FILE_CERT], CHAIN_MAX, gnutls_strerror(e));
    if (gnutls_x509_crt_get_dn(chain[0], name, &size)) name[0] = 0;
    *until = gnutls_x509_crt_get_expiration_time(chain[0]);
    int kind = gnutls_x509_crt_get_pk_algorithm(chain[0], &bits);
    for (unsigned i = 0; i < count; i++) gnutls_x509_crt_deinit(chain[i]);
    if (kind == GNUTLS_PK_RSA && bits < RSA_BITS_MIN) return err_set(err, ST_BAD_INPUT, "%s: an RSA key of %u bits is too short; clients want %d", t->paths[FILE_CERT], bits, RSA_BITS_MIN);
    return ST_OK;
}

static enum status make_credentials(const struct tls *t, struct tls_identity *i, struct err *err)
{
    gnutls_datum_t cert = { (unsigned char *)i->cert, (unsigned)strlen(i->cert) }, key = { (unsigned char *)i->key, (unsigned)strlen(i->key) };
    if (gnutls_certificate_allocate_credentials(&i->secrets->credentials)) return err_set(err, ST_NO_MEMORY, "no memory for a certificate");
    if (strstr(i->key, "ENCRYPTED")) return err_set(err, ST_BAD_INPUT, "%s is encrypted: the server needs a key without a password", t->paths[FILE_KEY]);
    int e = gnutls_certificate_set_x509_key_mem2(i->secrets->credentials, &cert, &key, GNUTLS_X509_FMT_PEM, NULL, 0);
    if (e == GNUTLS_E_CERTIFICATE_KEY_MISMATCH) return err_set(err, ST_BAD_INPUT, "%s is not the key of the certificate in %s", t->paths[FILE_KEY], t->paths[FILE_CERT]);
    if (e < 0) return err_set(err, ST_BAD_INPUT, "%s and %s cannot be used: %s", t->paths[FILE_CERT], t->paths[FILE_KEY], gnutls_strerror(e));
    if (!i->client_ca) return ST_OK;
    gnutls_datum_t ca = { (unsigned char *)i->client_ca, (unsigned)strlen(i->client_ca) };
    e = gnutls_certificate_set_x509_trust_mem(i->secrets->credentials, &ca, GNUTLS_X509_FMT_PEM);
    return e > 0 ? ST_OK : err_set(err, ST_BAD_INPUT, "%s holds no certificate of an authority: %s", t->paths[FILE_CLIENT_CA], e ? gnutls_strerror(e) : "nothing that can be read");
}

/* Reads the files and makes them what new connections get. */
static enum status read_again(struct tls *t, struct err *err)
{
    char name[NAME_BYTES], date[40];
    time_t until = 0;
    struct tls_identity *i = calloc(1, sizeof *i), *old;
    if (!i) return err_set(err, ST_NO_MEMORY, "no memory for a certificate");
    i->secrets = calloc(1, sizeof *i->secrets);
    enum status st = i->secrets ? ST_OK : err_set(err, ST_NO_MEMORY, "no memory for a certificate");
    if (!st) st = read_pem(&i->cert, t->paths[FILE_CERT], false, err);
    if (!st) st = read_pem(&i->key, t->paths[FILE_KEY], true, err);
    if (!st && t->paths[FILE_CLIENT_CA]) st = read_pem(&i->client_ca, t->paths[FILE_CLIENT_CA], false, err);
    if (!st) st = check_leaf(t, i->cert, name, sizeof name, &until, err);
    if (!st) st = make_credentials(t, i, err);
    if (st) {
        identity_free(i);
        return st;
    }
    atomic_store(&i->secrets->holders, 1);
    i->number = ++t->read_count;
    pthread_mutex_lock(&t->lock);
    old = t->now;
    t->now = i;
    pthread_mutex_unlock(&t->lock);
    if (old) tls_release(old);
    struct tm utc;
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&until, &utc));
    if (until < time(NULL)) log_write(t->log, LOG_WARNING, "tls", "the certificate of %s has expired on %s: clients will not take it", name, date);
    else log_write(t->log, LOG_INFO, "tls", "the certificate of %s, valid until %s, is shown from now on", name, date);
    return ST_OK;
}

enum status tls_open(struct tls **out, const char *cert, const char *key, const char *client_ca, struct log *log, struct err *err)
{
    struct tls *t = calloc(1, sizeof *t);
    if (!t) return err_set(err, ST_NO_MEMORY, "no memory for TLS");
    *t = (struct tls){ .paths = { cert, key, client_ca }, .log = log };
    pthread_mutex_init(&t->lock, NULL);
    enum status st = gnutls_priority_init(&t->priorities, PRIORITIES, NULL) ? err_set(err, ST_UNSUPPORTED, "the TLS library has none of our ciphers") : ST_OK;
    look(t, t->read);
    memcpy(t->seen, t->read, sizeof t->seen);
    if (!st) st = read_again(t, err);
    if (st) tls_close(t);
    else *out = t;
    return st;
}

void tls_close(struct tls *t)
{
    if (!t) return;
    if (t->now) tls_release(t->now);
    if (t->priorities) gnutls_priority_deinit(t->priorities);
    pthread_mutex_destroy(&t->lock);
    free(t);
}

void tls_refresh(struct tls *t, bool at_once)
{
    struct mark marks[FILES];
    struct err err = { 0 };
    look(t, marks);
    bool settled = same_marks(marks, t->seen);
    memcpy(t->seen, marks, sizeof marks);
    if (!at_once && (!settled || same_marks(marks, t->read))) return;
    memcpy(t->read, marks, sizeof marks);
    if (read_again(t, &err)) log_write(t->log, LOG_ERROR, "tls", "the certificate stays as it was: %s", err.text);
}

const struct tls_identity *tls_hold(struct tls *t)
{
    pthread_mutex_lock(&t->lock);
    struct tls_identity *i = t->now;
    atomic_fetch_add(&i->secrets->holders, 1);
    pthread_mutex_unlock(&t->lock);
    return i;
}

void tls_release(const struct tls_identity *i)
{
    if (atomic_fetch_sub(&i->secrets->holders, 1) == 1) identity_free((struct tls_identity *)i);
}

/* ---- sessions ---- */

const struct tls_identity *tls_begin(struct tls *t, void *session, bool ask_client)
{
    static gnutls_typed_vdata_st purpose = { .type = GNUTLS_DT_KEY_PURPOSE_OID, .data = (unsigned char *)GNUTLS_KP_TLS_WWW_CLIENT };
    static const gnutls_datum_t protocol = { (unsigned char *)"http/1.1", 8 };
    const struct tls_identity *i = tls_hold(t);
    if (gnutls_priority_set(session, t->priorities) || gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, i->secrets->credentials) || gnutls_alpn_set_protocols(session, &protocol, 1, 0)) {
        tls_release(i);
        return NULL;
    }
    if (i->client_ca && ask_client) {
        gnutls_certificate_server_set_request(session, GNUTLS_CERT_REQUIRE);
        gnutls_session_set_verify_cert2(session, &purpose, 1, 0);
    }
    return i;
}

void tls_send(void *session, const char *text, size_t length)
{
    if (gnutls_record_send(session, text, length) >= 0) gnutls_bye(session, GNUTLS_SHUT_WR);
}

ssize_t tls_ask(int fd, const char *question, size_t length, char *out, size_t size)
{
    gnutls_session_t session;
    gnutls_certificate_credentials_t none;
    ssize_t have = -1, got = 1;
    int e;
    if (gnutls_certificate_allocate_credentials(&none)) return -1;
    if (gnutls_init(&session, GNUTLS_CLIENT | GNUTLS_NO_SIGNAL)) {
        gnutls_certificate_free_credentials(none);
        return -1;
    }
    gnutls_set_default_priority(session);
    gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, none);
    gnutls_transport_set_int(session, fd);
    while ((e = gnutls_handshake(session)) == GNUTLS_E_INTERRUPTED || e == GNUTLS_E_WARNING_ALERT_RECEIVED) continue;
    if (!e && gnutls_record_send(session, question, length) == (ssize_t)length)
        for (have = 0; (size_t)have < size && got > 0; have += got > 0 ? got : 0) got = gnutls_record_recv(session, out + have, size - (size_t)have);
    gnutls_deinit(session);
    gnutls_certificate_free_credentials(none);
    return have;
}
