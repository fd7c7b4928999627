#include "server/calibration_files.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "api/picture.h"
#include "base/checked.h"
#include "base/file.h"
#include "engine/formats/npz.h"
#include "server/command_model.h"

enum { PATH_BYTES = 4096, NAME_BYTES = 256 };
static const uint64_t FILE_BYTES_MAX = (uint64_t)4 << 30, LIST_BYTES = (uint64_t)256 << 20;
static const char *const tensor_ends[] = { ".npy", ".pb", NULL }, *const picture_ends[] = { ".png", ".jpg", ".jpeg", ".webp", NULL };

static bool ends_with(const char *name, const char *const *ends)
{
    const char *dot = strrchr(name, '.');
    for (; dot && *ends; ends++)
        if (strcasecmp(dot, *ends) == 0) return true;
    return false;
}

static bool is_npz(const char *name) { return ends_with(name, (const char *const[]){ ".npz", NULL }); }
static bool is_folder(const char *path)
{
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

/* ---- listing ---- */
static enum status add_path(struct calibration_files *f, const char *path, struct err *err)
{
    if (f->count == CALIBRATION_FILES_MAX) return err_set(err, ST_BAD_INPUT, "there are more than %d calibration inputs", CALIBRATION_FILES_MAX);
    if (f->count == f->room) {
        const int room = f->room ? f->room * 2 : 64;
        char **wider = mem_realloc_array(f->paths, (uint64_t)room, sizeof *wider);
        if (!wider) return err_set(err, ST_NO_MEMORY, "listing calibration inputs");
        f->paths = wider;
        f->room = room;
    }
    if (!(f->paths[f->count] = arena_copy(&f->arena, path, strlen(path)))) return err_set(err, ST_NO_MEMORY, "listing calibration inputs");
    f->count++;
    return ST_OK;
}

/* A name of the model's as part of a file's. */
static void plain_name(char out[NAME_BYTES], const char *name)
{
    size_t n = 0;
    for (; name[n] && n < NAME_BYTES - 1; n++) out[n] = strchr("/\\:", name[n]) ? '_' : name[n];
    out[n] = 0;
}

/* The file of input k in a folder, by number or by name; false: none. */
static bool file_of_input(char path[PATH_BYTES], const char *folder, int k, const char *name)
{
    char plain[NAME_BYTES];
    struct stat s;
    plain_name(plain, name);
    for (int i = 0; i < 2; i++)
        if (snprintf(path, PATH_BYTES, "%s/input_%d%s", folder, k, tensor_ends[!i]) < PATH_BYTES && stat(path, &s) == 0) return true;
    for (const char *const *end = tensor_ends; *end; end++)
        if (snprintf(path, PATH_BYTES, "%s/%s%s", folder, plain, *end) < PATH_BYTES && stat(path, &s) == 0) return true;
    for (const char *const *end = picture_ends; *end; end++)
        if (snprintf(path, PATH_BYTES, "%s/%s%s", folder, plain, *end) < PATH_BYTES && stat(path, &s) == 0) return true;
    return false;
}

/* Does a folder hold the inputs of one run? */
static bool is_input(const struct calibration_files *f, const char *folder)
{
    char path[PATH_BYTES];
    for (int k = 0; k < f->signature->input_count; k++)
        if (!f->signature->inputs[k].optional && !file_of_input(path, folder, k, f->signature->inputs[k].name)) return false;
    return f->signature->input_count > 0;
}

static int by_name(const struct dirent **a, const struct dirent **b) { return strcmp((*a)->d_name, (*b)->d_name); }

static enum status add_folder(struct calibration_files *f, const char *folder, int depth, struct err *err)
{
    struct dirent **list;
    enum status st = ST_OK;
    if (is_input(f, folder)) return add_path(f, folder, err);
    const int n = scandir(folder, &list, NULL, by_name);
    if (n < 0) return err_set(err, ST_NOT_FOUND, "folder '%s' cannot be read", folder);
    for (int i = 0; i < n; i++) {
        char path[PATH_BYTES];
        const char *name = list[i]->d_name;
        if (!st && name[0] != '.' && snprintf(path, sizeof path, "%s/%s", folder, name) < PATH_BYTES) {
            if (is_folder(path)) st = depth > 0 ? add_folder(f, path, depth - 1, err) : ST_OK;
            else if (is_npz(name) || ends_with(name, picture_ends) || (ends_with(name, tensor_ends) && strncmp(name, "output_", 7))) st = add_path(f, path, err);
            else f->passed_over++;
        }
        free(list[i]);
    }
    free(list);
    return st;
}

enum status calibration_files_add(struct calibration_files *f, const char *path, struct err *err)
{
    struct stat s;
    const int before = f->count;
    if (stat(path, &s)) return err_set(err, ST_NOT_FOUND, "there is no file or folder '%s'", path);
    enum status st = S_ISDIR(s.st_mode) ? add_folder(f, path, 2, err) : add_path(f, path, err);
    if (!st && f->count == before) return err_set(err, ST_BAD_INPUT, "'%s' holds no calibration inputs: .npy, .npz, .pb or picture files, or folders of input_K.pb or NAME.npy", path);
    return st;
}

enum status calibration_files_open(struct calibration_files *f, const char *folder, const struct signature *s, struct err *err)
{
    static const char *const places[] = { "%s/config.pbtxt", "%s/../config.pbtxt" };
    char path[PATH_BYTES], *text = NULL;
    size_t length = 0;
    *f = (struct calibration_files){ .signature = s };
    arena_init(&f->arena, LIST_BYTES);
    for (int i = 0; i < 2 && !text; i++)
        if (snprintf(path, sizeof path, places[i], folder) >= PATH_BYTES || file_read_path(&text, &length, path, CONFIG_BYTES_MAX, NULL)) text = NULL;
    enum status st = model_config_parse(&f->config, text ? text : "", text ? length : 0, text ? path : "config", NULL, err);
    if (!st) st = model_config_complete(f->config, f->config->name && f->config->name[0] ? f->config->name : "model", s, err);
    free(text);
    if (st) calibration_files_close(f);
    return st;
}

void calibration_files_close(struct calibration_files *f)
{
    if (f->config) model_config_free(f->config);
    free(f->paths);
    arena_free(&f->arena);
    *f = (struct calibration_files){ 0 };
}

/* ---- reading ---- */
static enum status read_picture(const struct calibration_files *f, const char *path, struct tensor *out, struct arena *arena, struct err *err)
{
    struct request r;
    char *bytes;
    size_t length;
    enum status st = file_read_path(&bytes, &length, path, FILE_BYTES_MAX, err);
    if (st) return st;
    request_init(&r, LIST_BYTES);
    st = f->config->picture.usable ? picture_bytes_to_tensor(out, &f->config->picture, &r, bytes, length, err) : err_set(err, ST_BAD_INPUT, "the model's config does not say how a picture becomes its input, nor can it be told from that");
    void *data = st ? NULL : arena_alloc(arena, out->bytes ? out->bytes : 1, TENSOR_ALIGN);
    if (!st && !data) st = err_set(err, ST_NO_MEMORY, "reading '%s'", path);
    if (!st) out->data = memcpy(data, out->data, out->bytes);
    request_drop(&r);
    free(bytes);
    return st ? err_prefix(err, "'%s'", path) : ST_OK;
}

static enum status read_one(const struct calibration_files *f, const char *path, const struct port *port, struct tensor *out, struct arena *arena, struct err *err)
{
    if (ends_with(path, picture_ends)) return read_picture(f, path, out, arena, err);
    if (!ends_with(path, tensor_ends)) return err_set(err, ST_BAD_INPUT, "'%s' is neither a .npy, .npz or .pb file nor a picture", path);
    return command_tensor_read(out, arena, path, port, err);
}

static enum status read_npz(const char *path, const struct port *ports, int count, struct tensor *out, struct arena *arena, struct err *err)
{
    char *bytes, numbered[32];
    size_t length;
    struct npz z;
    enum status st = file_read_path(&bytes, &length, path, FILE_BYTES_MAX, err);
    if (st) return st;
    st = npz_parse(&z, arena, bytes, length, err);
    for (int k = 0; k < count && !st; k++) {
        snprintf(numbered, sizeof numbered, "arr_%d", k);
        const struct tensor *t = npz_find(&z, ports[k].name);
        if (!t) t = npz_find(&z, numbered);
        if (!t) { st = err_set(err, ST_BAD_INPUT, "it holds no '%s'", ports[k].name); continue; }
        out[k] = *t;
        out[k].data = arena_alloc(arena, t->bytes ? t->bytes : 1, TENSOR_ALIGN);
        if (!out[k].data) st = err_set(err, ST_NO_MEMORY, "its tensors pass the memory budget");
        else if (t->bytes) memcpy(out[k].data, t->data, t->bytes);
    }
    free(bytes);
    return st ? err_prefix(err, "'%s'", path) : ST_OK;
}

/* Does the tensor fit the input? A first dimension that is missing is one row. */
static enum status fit(struct tensor *t, const struct port *p, const char *path, struct err *err)
{
    char got[128], want[128];
    if (p->rank > 0 && t->rank == p->rank - 1) {
        memmove(t->dims + 1, t->dims, (size_t)t->rank * sizeof *t->dims);
        t->dims[0] = 1;
        t->rank++;
    }
    if (t->dtype != p->dtype) return err_set(err, ST_BAD_INPUT, "'%s': input '%s' takes %s, not %s", path, p->name, dtype_name(p->dtype), dtype_name(t->dtype));
    bool fits = p->rank < 0 || t->rank == p->rank;
    for (int d = 0; fits && d < p->rank; d++) fits = p->dims[d] < 0 || p->dims[d] == t->dims[d];
    return fits ? ST_OK : err_set(err, ST_BAD_INPUT, "'%s': input '%s' takes %s, not %s", path, p->name, shape_text(p->dims, p->rank, want, sizeof want), shape_text(t->dims, t->rank, got, sizeof got));
}

enum status calibration_files_read(void *ctx, int index, const struct port *ports, int port_count, struct tensor *out, struct arena *arena, struct err *err)
{
    const struct calibration_files *f = ctx;
    const char *path = f->paths[index];
    enum status st = ST_OK;
    if (is_npz(path)) st = read_npz(path, ports, port_count, out, arena, err);
    else if (!is_folder(path) && port_count != 1) st = err_set(err, ST_BAD_INPUT, "'%s' is one tensor, but the model takes %d inputs: give a .npz file or a folder with a file for each", path, port_count);
    else if (!is_folder(path)) st = read_one(f, path, &ports[0], &out[0], arena, err);
    else
        for (int k = 0; k < port_count && !st; k++) {
            char file[PATH_BYTES];
            if (file_of_input(file, path, k, ports[k].name)) st = read_one(f, file, &ports[k], &out[k], arena, err);
            else st = err_set(err, ST_BAD_INPUT, "folder '%s' holds no file for input '%s'", path, ports[k].name);
        }
    for (int k = 0; k < port_count && !st; k++) st = fit(&out[k], &ports[k], path, err);
    return st;
}
