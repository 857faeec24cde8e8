/* SPDX-License-Identifier: Apache-2.0 */
#include "numa/cpus.h"

#include <string.h>

#define WORDS (DRV_CPUS_MAX / 64)

/* Digits of a number that fits; longer ones are no CPUs of any machine. */
#define MAX_DIGITS 9

static gboolean
take_number(const char **at, guint *number)
{
    guint digits = 0;
    for (*number = 0; g_ascii_isdigit(**at); (*at)++) {
        if (++digits > MAX_DIGITS)
            return FALSE;
        *number = *number * 10 + (guint)(**at - '0');
    }
    return digits > 0;
}

static gboolean
is_end(char c)
{
    return c == '\0' || c == '\n';
}

static gboolean
take_range(const char **at, DrvCpus *cpus)
{
    guint first, last;
    if (!take_number(at, &first))
        return FALSE;
    last = first;
    if (**at == '-') {
        (*at)++;
        if (!take_number(at, &last) || last < first)
            return FALSE;
    }
    for (guint cpu = first; cpu <= MIN(last, DRV_CPUS_MAX - 1); cpu++)
        drv_cpus_add(cpus, cpu);
    return TRUE;
}

gboolean
drv_cpus_parse(const char *text, DrvCpus *cpus)
{
    const char *at = text;
    *cpus = (DrvCpus){0};
    while (g_ascii_isspace(*at) && *at != '\n')
        at++;
    while (!is_end(*at)) {
        gboolean more = take_range(&at, cpus) && (is_end(*at) || (*at == ',' && !is_end(at[1])));
        if (!more) {
            *cpus = (DrvCpus){0};
            return FALSE;
        }
        at += *at == ',';
    }
    return TRUE;
}

gboolean
drv_nodes_parse(const char *text, guint64 *nodes)
{
    DrvCpus list;
    gboolean good = drv_cpus_parse(text, &list);
    *nodes = list.bits[0];
    return good;
}

char *
drv_cpus_format(const DrvCpus *cpus)
{
    GString *text = g_string_new(NULL);
    for (guint first = 0, last; first < DRV_CPUS_MAX; first = last + 1) {
        last = first;
        if (!drv_cpus_has(cpus, first))
            continue;
        while (drv_cpus_has(cpus, last + 1))
            last++;
        g_string_append_printf(text, "%s%u", text->len > 0 ? "," : "", first);
        if (last > first)
            g_string_append_printf(text, "-%u", last);
    }
    return g_string_free(text, FALSE);
}

char *
drv_nodes_format(guint64 nodes)
{
    DrvCpus list = {.bits = {nodes}};
    return drv_cpus_format(&list);
}

gboolean
drv_cpus_has(const DrvCpus *cpus, guint cpu)
{
    return cpu < DRV_CPUS_MAX && (cpus->bits[cpu / 64] >> cpu % 64 & 1) != 0;
}

void
drv_cpus_add(DrvCpus *cpus, guint cpu)
{
    g_return_if_fail(cpu < DRV_CPUS_MAX);
    cpus->bits[cpu / 64] |= G_GUINT64_CONSTANT(1) << cpu % 64;
}

gboolean
drv_cpus_is_empty(const DrvCpus *cpus)
{
    return drv_cpus_count(cpus) == 0;
}

guint
drv_cpus_count(const DrvCpus *cpus)
{
    guint n = 0;
    for (guint i = 0; i < WORDS; i++)
        n += (guint)__builtin_popcountll(cpus->bits[i]);
    return n;
}

DrvCpus
drv_cpus_and(const DrvCpus *a, const DrvCpus *b)
{
    DrvCpus out;
    for (guint i = 0; i < WORDS; i++)
        out.bits[i] = a->bits[i] & b->bits[i];
    return out;
}

DrvCpus
drv_cpus_without(const DrvCpus *a, const DrvCpus *b)
{
    DrvCpus out;
    for (guint i = 0; i < WORDS; i++)
        out.bits[i] = a->bits[i] & ~b->bits[i];
    return out;
}

DrvCpus
drv_cpus_or(const DrvCpus *a, const DrvCpus *b)
{
    DrvCpus out;
    for (guint i = 0; i < WORDS; i++)
        out.bits[i] = a->bits[i] | b->bits[i];
    return out;
}

gboolean
drv_cpus_within(const DrvCpus *a, const DrvCpus *b)
{
    DrvCpus rest = drv_cpus_without(a, b);
    return drv_cpus_is_empty(&rest);
}
