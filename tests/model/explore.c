/* SPDX-License-Identifier: Apache-2.0 */
#include "tests/model/explore.h"

#include <string.h>

/*
 * Safety is looked at in every world as it is found. Liveness needs the whole graph: from every
 * world a good one must be reachable by fair steps alone, those that happen sooner or later when
 * nothing more goes wrong. In a finite graph that means that it will be reached: whoever goes on
 * taking fair steps, each that stays possible being taken some day, cannot avoid it for ever.
 * It is found backwards, from the good worlds along the steps' origins: first over fair steps, then
 * over those that need a person as well.
 */

typedef struct {
    guint32 from, to;
} Edge;

typedef struct {
    Step step;
    guint most;
    GArray *worlds;  /* of World */
    GArray *parents; /* of guint32: from which it was found first ... */
    GArray *names;   /* of const char *: ... by what */
    guint32 *table;  /* hash → index + 1 */
    guint mask;
    GArray *edges[2]; /* of Edge, FAIR's and PERSON's */
    Findings *findings;
} Explorer;

static guint64
hash(const World *w)
{
    const guint8 *bytes = (const guint8 *)w;
    guint64 h = 0xcbf29ce484222325;
    for (guint i = 0; i < sizeof *w; i++)
        h = (h ^ bytes[i]) * 0x100000001b3;
    return h ^ h >> 29;
}

static const World *
world(const Explorer *self, guint index)
{
    return &g_array_index(self->worlds, World, index);
}

/* Its index; '*is_new' if it was not known. */
static guint32
find(Explorer *self, const World *w, gboolean *is_new)
{
    guint slot = (guint)hash(w) & self->mask;
    for (; self->table[slot] != 0; slot = (slot + 1) & self->mask) {
        *is_new = FALSE;
        if (memcmp(world(self, self->table[slot] - 1), w, sizeof *w) == 0)
            return self->table[slot] - 1;
    }
    *is_new = TRUE;
    g_array_append_vals(self->worlds, w, 1);
    self->table[slot] = self->worlds->len;
    return self->worlds->len - 1;
}

static char *
way_to(const Explorer *self, guint32 index)
{
    GString *text = g_string_new(NULL);
    g_autofree char *last = world_describe(world(self, index));
    g_string_printf(text, "    -> %s\n", last);
    for (; index != 0; index = g_array_index(self->parents, guint32, index)) {
        g_autofree char *line =
            g_strdup_printf("    %s\n", g_array_index(self->names, const char *, index));
        g_string_prepend(text, line);
    }
    return g_string_free(text, FALSE);
}

static void
note_wrong(Explorer *self, guint32 from, const char *action, const char *what)
{
    if (self->findings->wrong != NULL)
        return;
    g_autofree char *before = way_to(self, from);
    self->findings->wrong = g_strdup(what);
    self->findings->way = g_strdup_printf("%s    %s\n", before, action);
}

static void
take(Explorer *self, guint32 from, const Action *action)
{
    World next = *world(self, from);
    gboolean is_new;
    self->step.wrong = NULL;
    if ((action->kind == FAULT && next.faults == 0) || !action->take(&next, &self->step))
        return;
    next.faults -= action->kind == FAULT;
    guint32 to = find(self, &next, &is_new);
    if (is_new) {
        g_array_append_val(self->parents, from);
        g_array_append_val(self->names, action->name);
    }
    self->findings->steps++;
    const char *wrong = self->step.wrong != NULL ? self->step.wrong : world_wrong(&next);
    if (wrong != NULL)
        note_wrong(self, from, action->name, wrong);
    Edge edge = {from, to};
    if (action->kind != FAULT && to != from)
        g_array_append_val(self->edges[action->kind == PERSON], edge);
}

static void
expand(Explorer *self)
{
    static const Action *const all[] = {source_actions, dest_actions, surroundings};
    for (guint32 i = 0; i < self->worlds->len && self->findings->wrong == NULL; i++) {
        if (self->worlds->len > self->most) {
            self->findings->cut = TRUE;
            break;
        }
        for (guint t = 0; t < G_N_ELEMENTS(all); t++)
            for (const Action *action = all[t]; action->name != NULL; action++)
                take(self, i, action);
    }
    self->findings->worlds = self->worlds->len;
}

/* Marks with 'mark' what leads to marked worlds by these edges. */
static void
spread(const Explorer *self, guint8 *marks, guint8 mark, guint kinds)
{
    gboolean more = TRUE;
    /* Edges lie in the order in which worlds were found, and lead mostly forwards. */
    while (more) {
        more = FALSE;
        for (guint kind = 0; kind < kinds; kind++) {
            const GArray *edges = self->edges[kind];
            for (guint i = edges->len; i > 0; i--) {
                Edge edge = g_array_index(edges, Edge, i - 1);
                if (marks[edge.to] != 0 && marks[edge.from] == 0) {
                    marks[edge.from] = mark;
                    more = TRUE;
                }
            }
        }
    }
}

enum { UNMARKED, BY_ITSELF, BY_A_PERSON };

static gboolean
any_qemu_killed(const World *w)
{
    return w->s_killed || w->d_killed || w->disobeyed || w->person || w->d_qemu == QEMU_DEAD;
}

static void
judge_liveness(Explorer *self)
{
    Findings *f = self->findings;
    g_autofree guint8 *marks = g_new0(guint8, self->worlds->len);
    for (guint i = 0; i < self->worlds->len; i++) {
        if (world_good(world(self, i))) {
            marks[i] = BY_ITSELF;
            f->good++;
        }
    }
    spread(self, marks, BY_ITSELF, 1);
    spread(self, marks, BY_A_PERSON, 2);
    for (guint i = 0; i < self->worlds->len; i++) {
        if (marks[i] == UNMARKED && f->wrong == NULL) {
            f->wrong = g_strdup("it never ends well, though nothing more goes wrong");
            f->way = way_to(self, i);
        }
        f->by_person += marks[i] == BY_A_PERSON;
        if (marks[i] == BY_A_PERSON && f->person_way == NULL && !any_qemu_killed(world(self, i))) {
            f->person_way = way_to(self, i);
        }
    }
}

static void
measure_depth(Explorer *self)
{
    guint32 last = self->worlds->len - 1;
    for (; last != 0; last = g_array_index(self->parents, guint32, last))
        self->findings->depth++;
}

void
explore(Mutant mutant, guint faults, guint most, Findings *findings)
{
    static const guint32 none = 0;
    static const char *const beginning = "";
    guint size = 1024;
    while (size < most * 2)
        size *= 2;
    Explorer self = {
        .step = {mutant, NULL},
        .most = most,
        .worlds = g_array_new(FALSE, FALSE, sizeof(World)),
        .parents = g_array_new(FALSE, FALSE, sizeof(guint32)),
        .names = g_array_new(FALSE, FALSE, sizeof(char *)),
        .table = g_new0(guint32, size),
        .mask = size - 1,
        .edges = {g_array_new(FALSE, FALSE, sizeof(Edge)), g_array_new(FALSE, FALSE, sizeof(Edge))},
        .findings = findings,
    };
    World first;
    gboolean is_new;
    memset(findings, 0, sizeof *findings);
    world_begin(&first, faults);
    find(&self, &first, &is_new);
    g_array_append_val(self.parents, none);
    g_array_append_val(self.names, beginning);
    expand(&self);
    if (!findings->cut && findings->wrong == NULL)
        judge_liveness(&self);
    measure_depth(&self);
    g_array_unref(self.worlds);
    g_array_unref(self.parents);
    g_array_unref(self.names);
    g_array_unref(self.edges[0]);
    g_array_unref(self.edges[1]);
    g_free(self.table);
}

void
findings_clear(Findings *findings)
{
    g_free(findings->wrong);
    g_free(findings->way);
    g_free(findings->person_way);
    memset(findings, 0, sizeof *findings);
}
