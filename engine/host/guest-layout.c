/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/host/guest-layout.h"

#include "common/error.h"

#include <string.h>

#define MAX_BLOCKS 1024 /* hundreds of devices have some each */
#define MAX_RANGES 4096
#define MAX_COLUMNS 8 /* behind "Total" */

/* Leaves out the end of a line of the monitor. */
static gsize
line_length(const char *line, const char *end)
{
    gsize len = (gsize)(end - line);
    while (len > 0 && g_ascii_isspace(line[len - 1]))
        len--;
    return len;
}

/* The next line as a string of its own, or NULL at the end of the text. */
static char *
next_line(const char **text)
{
    if (**text == '\0')
        return NULL;
    const char *end = strchrnul(*text, '\n');
    char *line = g_strndup(*text, line_length(*text, end));
    *text = *end == '\0' ? end : end + 1;
    return line;
}

/* All of the text as a number, in hexadecimal with "0x", or without when 'bare'. */
static gboolean
parse_hex(const char *text, gboolean bare, guint64 *value)
{
    if (!bare) {
        if (!g_str_has_prefix(text, "0x"))
            return FALSE;
        text += 2;
    }
    gsize digits = strspn(text, "0123456789abcdefABCDEF");
    if (digits == 0 || digits > 16 || text[digits] != '\0')
        return FALSE;
    *value = g_ascii_strtoull(text, NULL, 16);
    return TRUE;
}

/* --- info ramblock --- */

/*
 *               Block Name    PSize              Offset               Used              Total
 *                   pc.ram    4 KiB  0x0000000000000000 0x0000000008000000 0x0000000008000000
 *
 * and then "HVA" and "RO" from 8.x on. A name may hold blanks, so a line is taken from its end.
 */
typedef struct {
    guint n;             /* columns behind "Total" */
    gint hva, read_only; /* which of them; -1: none */
} Columns;

/* Cuts the last word off; NULL when there is none, or nothing before it. */
static char *
cut_word(char *line)
{
    gsize len = line_length(line, line + strlen(line));
    line[len] = '\0';
    while (len > 0 && !g_ascii_isspace(line[len - 1]))
        len--;
    if (len == 0 || line[len] == '\0')
        return NULL;
    line[len - 1] = '\0';
    return line + len;
}

static gboolean
parse_header(const char *line, Columns *columns)
{
    static const char *const first[] = {"Block", "Name", "PSize", "Offset", "Used", "Total"};
    g_auto(GStrv) words = g_strsplit_set(line, " \t", -1);
    guint at = 0;
    *columns = (Columns){0, -1, -1};
    for (guint i = 0; words[i] != NULL; i++) {
        if (*words[i] == '\0')
            continue;
        if (at < G_N_ELEMENTS(first)) {
            if (!g_str_equal(words[i], first[at++]))
                return FALSE;
            continue;
        }
        if (g_str_equal(words[i], "HVA"))
            columns->hva = (gint)columns->n;
        else if (g_str_equal(words[i], "RO"))
            columns->read_only = (gint)columns->n;
        if (++columns->n > MAX_COLUMNS)
            return FALSE;
    }
    return at == G_N_ELEMENTS(first);
}

/* What stands behind "Total"; the line ends before it afterwards. */
static gboolean
parse_columns(char *line, const Columns *columns, DrvGuestListed *listed)
{
    for (gint i = (gint)columns->n - 1; i >= 0; i--) {
        const char *word = cut_word(line);
        if (word == NULL)
            return FALSE;
        if (i == columns->hva && !parse_hex(word, FALSE, &listed->hva))
            return FALSE;
        if (i == columns->read_only) {
            listed->read_only = g_str_equal(word, "ro");
            if (!listed->read_only && !g_str_equal(word, "rw"))
                return FALSE;
        }
    }
    return TRUE;
}

static gboolean
parse_block(char *line, const Columns *columns, DrvGuestListed *listed)
{
    guint64 offset;
    *listed = (DrvGuestListed){0};
    if (!parse_columns(line, columns, listed))
        return FALSE;
    const char *total = cut_word(line), *used = cut_word(line), *at = cut_word(line);
    if (at == NULL || !parse_hex(total, FALSE, &listed->size) ||
        !parse_hex(used, FALSE, &listed->used) || !parse_hex(at, FALSE, &offset))
        return FALSE;
    const char *unit = cut_word(line), *page = cut_word(line);
    if (page == NULL || !g_str_has_suffix(unit, "B") || !g_ascii_isdigit(*page))
        return FALSE;
    const char *name = g_strstrip(line);
    return *name != '\0' && g_strlcpy(listed->id, name, sizeof listed->id) < sizeof listed->id;
}

GArray *
drv_guest_parse_ramblock(const char *text, gboolean *tells, GError **error)
{
    g_autoptr(GArray) all = g_array_new(FALSE, FALSE, sizeof(DrvGuestListed));
    g_autofree char *header = next_line(&text);
    Columns columns;
    char *line;
    if (header == NULL || !parse_header(header, &columns)) {
        g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU,
                    "QEMU's list of RAM blocks is not understood: it begins with '%.60s'",
                    header != NULL ? header : "");
        return NULL;
    }
    *tells = columns.hva >= 0;
    while ((line = next_line(&text)) != NULL) {
        DrvGuestListed listed;
        if (parse_block(line, &columns, &listed))
            g_array_append_val(all, listed);
        g_free(line);
        if (all->len > MAX_BLOCKS) {
            g_set_error(error, DRV_ERROR, DRV_ERROR_QEMU, "QEMU has more than %u RAM blocks",
                        MAX_BLOCKS);
            return NULL;
        }
    }
    return g_steal_pointer(&all);
}

/* Whether the path of a device, and then this name, is the other's. */
static gboolean
is_devices(const char *id, const char *name)
{
    gsize len = strlen(id), tail = strlen(name);
    return len > tail && id[len - tail - 1] == '/' && g_str_equal(id + len - tail, name);
}

const char *
drv_guest_listed_problem(const GArray *listed, guint index, gboolean tells)
{
    const DrvGuestListed *block = &g_array_index(listed, DrvGuestListed, index);
    if (block->read_only)
        return "it is read-only for the guest";
    if (block->used != block->size)
        return "its size may change";
    for (guint i = 0; i < listed->len; i++) {
        const DrvGuestListed *other = &g_array_index(listed, DrvGuestListed, i);
        if (i == index)
            continue;
        if (g_str_equal(other->id, block->id))
            return "QEMU has two blocks of this name";
        if (!tells && is_devices(other->id, block->id))
            return "a device's memory has the same name, and this QEMU tells them apart by name "
                   "only";
    }
    return tells && block->hva == 0 ? "QEMU does not say its address" : NULL;
}

/* --- info mtree -f --- */

/* "  0000000000100000-00000000bfffffff (prio 0, ram): pc.ram @0000000000100000 KVM" */
static gboolean
parse_range(const char *line, DrvGuestRange *range)
{
    static const char ram[] = ", ram): ";
    char start[17], last[17];
    while (*line == ' ')
        line++;
    if (strlen(line) < 34 || line[16] != '-' || line[33] != ' ')
        return FALSE;
    g_strlcpy(start, line, sizeof start);
    g_strlcpy(last, line + 17, sizeof last);
    if (!parse_hex(start, TRUE, &range->start) || !parse_hex(last, TRUE, &range->last) ||
        range->last < range->start || !g_str_has_prefix(line + 33, " (prio "))
        return FALSE;
    const char *kind = line + 33 + strlen(" (prio ");
    kind += *kind == '-';
    kind += strspn(kind, "0123456789");
    return g_str_has_prefix(kind, ram) && g_strlcpy(range->region, kind + strlen(ram),
                                                    sizeof range->region) < sizeof range->region;
}

/* Views are separated by empty lines; each begins with the address spaces that it is the view of.
 */
GArray *
drv_guest_parse_mtree(const char *text)
{
    GArray *ranges = g_array_new(FALSE, FALSE, sizeof(DrvGuestRange));
    gboolean inside = FALSE;
    char *line;
    while (ranges->len < MAX_RANGES && (line = next_line(&text)) != NULL) {
        DrvGuestRange range;
        if (*line == '\0' || g_str_has_prefix(line, "FlatView #"))
            inside = FALSE;
        else if (g_str_has_prefix(line, " AS \"memory\", root: system"))
            inside = TRUE;
        else if (inside && parse_range(line, &range))
            g_array_append_val(ranges, range);
        g_free(line);
    }
    return ranges;
}

gboolean
drv_guest_range_in(const DrvGuestRange *range, const char *id, guint64 size, guint64 *offset)
{
    char digits[17];
    if (!g_str_has_prefix(range->region, id))
        return FALSE;
    const char *rest = range->region + strlen(id);
    *offset = 0;
    if (g_str_has_prefix(rest, " @")) {
        g_strlcpy(digits, rest + 2, sizeof digits);
        if (strlen(digits) != 16 || !parse_hex(digits, TRUE, offset))
            return FALSE;
        rest += 2 + 16;
    }
    if (*rest == ' ') {
        rest++;
        rest += strspn(rest, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");
    }
    /* 'last' as an offset of the block: start and last may be the whole of 64 bits apart. */
    return *rest == '\0' && *offset < size && range->last - range->start < size - *offset;
}

/* --- gpa2hva --- */

gboolean
drv_guest_parse_hva(const char *text, guint64 address, const char *region, guint64 *hva)
{
    g_autofree char *said = g_strdup_printf(
        "Host virtual address for 0x%" G_GINT64_MODIFIER "x (%s) is ", address, region);
    g_autofree char *line = next_line(&text);
    return line != NULL && *text == '\0' && g_str_has_prefix(line, said) &&
           parse_hex(line + strlen(said), FALSE, hva) && *hva != 0;
}
