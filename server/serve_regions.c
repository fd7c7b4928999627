/* The routes of system shared memory (R26): registering, unregistering and listing regions. Off unless --allow-shared-memory. */
#include "server/server.h"

#include "base/json.h"

#include <stdio.h>

static const char *text_of(const struct json *root, const char *key)
{
    const struct json *j = json_get(root, key);
    return j && j->type == JSON_STRING && j->string.length ? j->string.text : NULL;
}

static enum status number_of(const struct json *root, const char *key, bool needed, uint64_t *out, struct err *err)
{
    const struct json *j = json_get(root, key);
    if (!j && !needed) return ST_OK;
    return j && json_as_uint64(j, out) ? ST_OK : err_set(err, ST_BAD_INPUT, "Unable to parse '%s': a natural number is needed", key);
}

static enum status change(struct exchange *x, const char *name, const struct json *root, struct err *err)
{
    struct regions *all = x->server->regions;
    const bool registers = x->route.route == ROUTE_SYSTEM_REGISTER;
    const char *key = text_of(root, "key");
    uint64_t offset = 0, bytes = 0;
    enum status st = ST_OK;
    if (registers) {
        if (!name || !key) return err_set(err, ST_BAD_INPUT, "a region needs a name and a key");
        st = number_of(root, "offset", false, &offset, err);
        if (!st) st = number_of(root, "byte_size", true, &bytes, err);
        if (!st) st = regions_register(all, name, key, offset, bytes, err);
    } else {
        regions_unregister(all, name);
    }
    if (!st) registry_audit(x->server->registry, x->who, registers ? "register shared memory" : "unregister shared memory", name ? name : "", "");
    return st;
}

void serve_regions(struct exchange *x)
{
    char path_name[REGION_NAME_MAX + 2];
    const char *name = NULL;
    struct json *root = x->question;
    struct err err;
    struct buf b;
    enum status st = x->server->regions ? ST_OK : err_set(&err, ST_UNSUPPORTED, "system shared memory is off");
    buf_init(&b, 0);
    if (!st && !root && x->route.route == ROUTE_SYSTEM_REGISTER) st = serve_read_object(x, &root, &err);
    if (x->route.name) {      /* one that is too long stays too long */
        snprintf(path_name, sizeof path_name, "%.*s", (int)(x->route.name_length < REGION_NAME_MAX + 1 ? x->route.name_length : REGION_NAME_MAX + 1), x->route.name);
        name = path_name;
    } else if (!st && x->question) {
        name = text_of(root, "name");
    }
    if (!st && x->route.route == ROUTE_SYSTEM_STATUS) st = regions_write_json(x->server->regions, name, x->rpc != NULL, &b, &err);
    else if (!st) st = change(x, name, root, &err);
    if (!st) {
        serve_json(x, 200, &b);
        return;
    }
    buf_free(&b);
    serve_error(x, &err);
}
