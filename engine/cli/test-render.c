/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/cli/render.h"

#include <string.h>

#include "common/json.h"

static JsonObject *
parse(const char *json)
{
    g_autoptr(GError) error = NULL;
    JsonObject *object = drv_json_parse_object(json, strlen(json), &error);
    g_assert_no_error(error);
    return object;
}

#define PROGRESS                                                                                   \
    "{\"round\":3,\"percent\":62.44,\"transferred\":1,\"total\":2,\"remaining\":1288490188,"       \
    "\"raw_rate\":851443712,\"wire_rate\":315621376,\"dirty_rate\":4718592,\"lanes\":4,"           \
    "\"reconnects\":1,\"connected\":true,\"elapsed_ms\":9000,\"expected_ms\":3200,"                \
    "\"expected_downtime_ms\":120}"
#define FULL                                                                                       \
    "copying  62.4%  round 3  812 MiB/s  301 MiB/s wire  4.5 MiB/s dirty  1.2 GiB left  3.2 s to " \
    "go  down for 120 ms  1 reconnect"
#define COPYING(rest)                                                                              \
    "{\"job\":\"7f3a\",\"vm\":\"web1\",\"state\":\"copying\",\"final\":false,\"progress\":" rest "}"

static void
test_progress(void)
{
    static const struct {
        const char *json;
        guint width;
        const char *line;
    } cases[] = {
        {COPYING(PROGRESS), 0, FULL},
        {COPYING(PROGRESS), 200, FULL},
        {COPYING(PROGRESS), 100,
         "copying  62.4%  812 MiB/s  301 MiB/s wire  4.5 MiB/s dirty  1.2 GiB left  3.2 s to go"},
        {COPYING(PROGRESS), 60, "copying  62.4%  812 MiB/s  301 MiB/s wire  3.2 s to go"},
        {COPYING(PROGRESS), 30, "copying  62.4%  3.2 s to go"},
        {COPYING(PROGRESS), 15, "copying  62.4%"},
        {COPYING(PROGRESS), 7, "copying"},
        {COPYING(PROGRESS), 5, "co..."},
        {COPYING(PROGRESS), 1, "c"},
        {COPYING("{\"total\":0,\"percent\":0,\"raw_rate\":0,\"remaining\":0}"), 80, "copying"},
        {COPYING("{\"disks\":[{\"name\":\"a\",\"percent\":100,\"ready\":true},"
                 "{\"name\":\"b\",\"percent\":35,\"hashing\":true}]}"),
         80, "copying  disk b hashed there 35.0%"},
        {COPYING("null"), 80, "copying"},
        {COPYING("{}"), 80, "copying"},
        {COPYING("[]"), 80, "copying"},
        {COPYING("{\"percent\":\"x\",\"round\":null,\"expected_ms\":null,\"connected\":0}"), 80,
         "copying"},
        {COPYING("{\"percent\":250,\"raw_rate\":-3}"), 80, "copying  100.0%"},
        {COPYING("{\"connected\":false,\"percent\":12,\"raw_rate\":0,\"reconnects\":2}"), 0,
         "copying  LINK DOWN, reconnecting  12.0%  0.0 MiB/s  2 reconnects"},
        {COPYING("{\"connected\":false,\"percent\":12,\"raw_rate\":0,\"reconnects\":2}"), 36,
         "copying  LINK DOWN, reconnecting"},
        {"{\"state\":\"done\",\"final\":true,\"progress\":{\"percent\":100}}", 80, "done"},
        {"{}", 80, "?"},
        {"{\"state\":\"\\u001b[2Jboo\"}", 80, "?[2Jboo"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(JsonObject) job = parse(cases[i].json);
        g_autofree char *line = drv_render_progress(job, cases[i].width);
        g_assert_cmpstr(line, ==, cases[i].line);
    }
    /* Whatever the width, it is kept. */
    g_autoptr(JsonObject) job = parse(COPYING(PROGRESS));
    for (guint width = 1; width < 140; width++) {
        g_autofree char *line = drv_render_progress(job, width);
        g_assert_cmpint(g_utf8_strlen(line, -1), <=, width);
    }
}

#define RESULT                                                                                     \
    "{\"job\":\"7f3a\",\"vm\":\"web1\",\"state\":\"completed\",\"error\":null,\"mode\":\"relay\"," \
    "\"accel\":\"kvm\",\"total_ms\":12300,\"downtime_ms\":84,\"rounds\":4,\"lanes\":4,"            \
    "\"reconnects\":1,\"ram\":{\"bytes\":2147483648,\"wire_bytes\":734003200,\"pages\":{"          \
    "\"zero\":10,\"dup\":0,\"lz4\":30}},\"disk\":{\"bytes\":0,\"wire_bytes\":0,"                   \
    "\"zero_bytes\":0},\"cpu_s\":{\"source\":1.25,\"dest\":2},\"throttle_pct\":0,"                 \
    "\"verify\":{\"stream\":\"match\",\"memory\":\"off\"}}"
#define DONE                                                                                       \
    "{\"job\":\"7f3a\",\"kind\":\"migrate\",\"role\":\"source\",\"vm\":\"web1\",\"state\":"        \
    "\"done\","                                                                                    \
    "\"peer\":\"10.0.0.2:7000\",\"created\":\"2026-01-02T03:04:05Z\",\"error\":null,"              \
    "\"final\":true,\"progress\":null,\"result\":" RESULT "}"

static void
test_prediction(void)
{
    g_autoptr(JsonObject) yes = parse(
        "{\"kind\":\"predict\",\"vm\":\"web1\",\"peer\":\"10.0.0.2:7000\",\"result\":{"
        "\"why\":\"it will\",\"converges\":\"yes\",\"sure\":0.87,\"total_ms\":{\"low\":8000,"
        "\"likely\":12000,\"high\":20000},\"downtime_ms\":{\"low\":40,\"likely\":40,\"high\":40},"
        "\"downtime_limit_ms\":300,\"ram\":1073741824,\"nonzero\":{\"low\":0.2,\"likely\":0.25,"
        "\"high\":0.3},\"link_rate\":{\"low\":1048576,\"likely\":1048576,\"high\":1048576},"
        "\"codec\":\"lz4\",\"ratio\":{\"low\":2,\"likely\":2,\"high\":2},\"running\":true,"
        "\"measured\":{\"dirty\":{\"mode\":\"dirty-ring\",\"points\":[{\"ms\":300,\"bytes\":"
        "1048576},{\"ms\":1500,\"bytes\":2097152}]},\"memory\":{},\"link\":{\"rtt_us\":400}}}}");
    g_autofree char *text = drv_render_summary(yes, 0);
    g_assert_cmpstr(text, ==,
                    "web1 to 10.0.0.2:7000: it will\n"
                    "  sure       87%\n"
                    "  total      about 12.0 s (8.0 s to 20.0 s)\n"
                    "  down for   40 ms; memory's part of it may be 300 ms\n"
                    "  memory     1.0 GiB, of which about 25% (20% to 30%) in use\n"
                    "  writes to  1.0 MiB within 300 ms, 2.0 MiB within 1.5 s (dirty-ring)\n"
                    "  link       1.0 MiB/s, round trip 0.4 ms\n"
                    "  codec      lz4, 2.0 to 1\n");
    g_autoptr(JsonObject) no = parse(
        "{\"kind\":\"predict\",\"result\":{\"converges\":\"no\",\"total_ms\":null,"
        "\"downtime_needed_ms\":{\"low\":900,\"likely\":2000,\"high\":3000},\"running\":false,"
        "\"codec\":\"none\",\"why\":\"\\u001bno\"}}");
    g_autofree char *bad = drv_render_summary(no, 0);
    g_assert_nonnull(strstr(bad, "it would   with --downtime of about 2.0 s (900 ms to 3.0 s)\n"));
    g_assert_nonnull(strstr(bad, "writes to  nothing, it does not run\n"));
    g_assert_nonnull(strstr(bad, "(guessed: it could not be looked at)\n"));
    g_assert_nonnull(strstr(bad, ": ?no\n"));
    g_autoptr(JsonObject) empty = parse("{\"kind\":\"predict\"}");
    g_autofree char *least = drv_render_summary(empty, 0);
    g_assert_true(g_utf8_validate(least, -1, NULL));
}

static void
test_summary(void)
{
    g_autoptr(JsonObject) job = parse(DONE);
    g_autofree char *kept = drv_render_summary(job, 300);
    g_assert_cmpstr(kept, ==,
                    "web1 now runs at 10.0.0.2:7000: it moved in 12.3 s, and was down for 84 ms "
                    "(300 ms were allowed: kept)\n"
                    "  2.0 GiB of memory as 700 MiB on the wire (2.9 to 1)\n"
                    "  4 rounds, 4 lanes, 1 reconnect, mode relay, stream verified\n");
    g_autofree char *broken = drv_render_summary(job, 50);
    g_assert_nonnull(strstr(broken, "down for 84 ms (50 ms were allowed: BROKEN)"));
    g_autofree char *unknown = drv_render_summary(job, 0);
    g_assert_nonnull(strstr(unknown, "down for 84 ms\n"));

    static const struct {
        const char *json, *text;
    } cases[] = {
        {"{}", "the VM now runs at the destination\n"},
        {"{\"role\":\"dest\",\"vm\":\"a\"}", "a now runs here\n"},
        {"{\"vm\":\"a\\u001b\",\"peer\":7,\"result\":{}}",
         "a? now runs at the destination\n  mode ?, not verified\n"},
        {"{\"result\":{\"ram\":{\"bytes\":1024,\"wire_bytes\":0},\"verify\":{\"stream\":\"match\","
         "\"memory\":\"match\"},\"rounds\":1}}",
         "the VM now runs at the destination\n  1.0 KiB of memory as 0 B on the wire\n"
         "  1 round, mode ?, stream and memory verified\n"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(JsonObject) odd = parse(cases[i].json);
        g_autofree char *text = drv_render_summary(odd, 300);
        g_assert_cmpstr(text, ==, cases[i].text);
    }
}

/* What was done so that it would end, in both. */
static void
test_course(void)
{
    g_autoptr(JsonObject) job = parse(
        "{\"vm\":\"a\",\"result\":{\"throttle\":\"cpus\",\"throttle_pct\":83,\"measures\":[{\"at_"
        "ms\":5210,"
        "\"why\":\"the guest may be down for 1.3 s: it writes 5 MiB/s\"},{\"at_ms\":9000,\"why\":"
        "\"it is\\nslowed down\"},7]}}");
    g_autofree char *summary = drv_render_summary(job, 0);
    g_assert_cmpstr(summary, ==,
                    "a now runs at the destination\n  mode ?, not verified\n"
                    "  after 5.2 s: the guest may be down for 1.3 s\n"
                    "  after 9.0 s: it is slowed down\n"
                    "  its CPUs had up to 83% less time\n");
    g_autofree char *report = drv_render_report(job, 0);
    g_assert_nonnull(strstr(report, "\nmeasure          after 5.2 s: the guest may be down for 1.3 "
                                    "s\n"));
    g_assert_nonnull(strstr(report, "\nslowed down      its CPUs had up to 83% less time\n"));
    g_autoptr(JsonObject) direct = parse(
        "{\"result\":{\"downtime\":{\"ram_ms\":36,\"devices_ms\":3,\"send_ms\":39,\"load_ms\":12,"
        "\"commit_ms\":4}}}");
    g_autofree char *split = drv_render_summary(direct, 0);
    g_assert_nonnull(strstr(split,
                            "\n  down 36 ms for the last memory, 3 ms for the devices, 12 ms "
                            "to load them, 4 ms to commit\n"));
    g_autoptr(JsonObject) relay =
        parse("{\"result\":{\"downtime\":{\"ram_ms\":null,\"devices_ms\":null,\"send_ms\":39,"
              "\"load_ms\":null,\"commit_ms\":4}}}");
    g_autofree char *whole = drv_render_report(relay, 0);
    g_assert_nonnull(strstr(whole, "\ndowntime         down 39 ms for the last memory and the "
                                   "devices, 4 ms to commit\n"));
    g_autoptr(JsonObject) relayed =
        parse("{\"result\":{\"mode\":\"relay\",\"relay_reason\":\"it is\\nnot permitted\"}}");
    g_autofree char *why = drv_render_summary(relayed, 0);
    g_assert_nonnull(strstr(why, "\n  QEMU placed the pages itself: it is not permitted\n"));
    g_autoptr(JsonObject) lost =
        parse("{\"result\":{\"mode\":\"direct\",\"relay_reason\":\"a page is odd\"}}");
    g_autofree char *later = drv_render_report(lost, 0);
    g_assert_nonnull(strstr(
        later, "\nrelayed          QEMU placed the rest of the pages itself: a page is odd\n"));
    g_autoptr(JsonObject) held = parse("{\"result\":{\"throttle\":\"dirty-limit\","
                                       "\"throttle_pct\":null,\"measures\":[]}}");
    g_autofree char *text = drv_render_summary(held, 0);
    g_assert_nonnull(strstr(text, "\n  its CPUs were held back when they wrote too much\n"));
}

#define TIMES                                                                                      \
    "\"total_ms\":{\"low\":8000,\"likely\":12000,\"high\":20000},\"downtime_ms\":{\"low\":40,"     \
    "\"likely\":40,\"high\":40}"

/* Beside what it was. */
static void
test_predictions(void)
{
    static const struct {
        const char *json, *text;
    } cases[] = {
        {"{\"made\":\"before\",\"sure\":0.874,\"converges\":\"yes\"," TIMES "}",
         "predicted before (87% sure): 12.0 s (8.0 s to 20.0 s) in all, 40 ms down; it was 12.3 s "
         "in "
         "all, 84 ms down"},
        {"{\"made\":\"first-round\",\"sure\":0.6,\"converges\":\"unsure\"," TIMES "}",
         "predicted after its first round (60% sure): perhaps 12.0 s (8.0 s to 20.0 s) in all, 40 "
         "ms "
         "down; it was 12.3 s in all, 84 ms down"},
        {"{\"made\":\"before\",\"sure\":0.9,\"converges\":\"no\",\"total_ms\":null}",
         "predicted before (90% sure): it would not converge; it was 12.3 s in all, 84 ms down"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *text = g_strdup_printf("{\"result\":{\"state\":\"completed\",\"total_ms\":"
                                                "12300,\"downtime_ms\":84,\"predictions\":"
                                                "[%s]}}",
                                                cases[i].json);
        g_autoptr(JsonObject) job = parse(text);
        g_autofree char *summary = drv_render_summary(job, 0);
        g_autofree char *expected = g_strdup_printf("\n  %s\n", cases[i].text);
        if (strstr(summary, expected) == NULL)
            g_error("%s is not in %s", expected, summary);
    }
    g_autoptr(JsonObject) failed =
        parse("{\"result\":{\"state\":\"failed\",\"total_ms\":25000,\"predictions\":[{\"made\":"
              "\"before\",\"sure\":0.9,\"converges\":\"no\"}]}}");
    g_autofree char *report = drv_render_report(failed, 0);
    g_assert_nonnull(strstr(report, "\npredicted        predicted before (90% sure): it would not "
                                    "converge; it ended undone after 25.0 s\n"));
}

static void
test_outcome(void)
{
    static const struct {
        const char *json, *text;
    } cases[] = {
        {"{\"job\":\"7f\",\"vm\":\"web1\",\"state\":\"failed\",\"error\":{\"message\":\"no "
         "room\"}}",
         "no room (job 7f failed, web1 runs at the source)"},
        {"{\"job\":\"7f\",\"vm\":\"web1\",\"state\":\"failed\",\"error\":null}",
         "no reason was given (job 7f failed, web1 runs at the source)"},
        {"{\"job\":\"7f\",\"vm\":\"web1\",\"state\":\"cancelled\"}",
         "job 7f was cancelled, web1 runs at the source"},
        {"{\"job\":\"7f\",\"vm\":\"web1\",\"state\":\"in-doubt\",\"error\":{\"message\":\"gone\"}}",
         "job 7f is in doubt: gone; find out where web1 runs, then say so with 'drover resolve 7f "
         "--run-on source|dest'"},
        {"{\"job\":\"7f\",\"kind\":\"tunnel\",\"state\":\"cancelled\"}", "tunnel 7f was ended"},
        {"{\"job\":\"7f\",\"kind\":\"tunnel\",\"state\":\"failed\",\"error\":{\"message\":\"in "
         "use\"}}",
         "tunnel 7f failed: in use"},
        {"{}", "job ? ended in the unknown state '': look at it with 'drover show ?'"},
    };
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(JsonObject) job = parse(cases[i].json);
        g_autofree char *text = drv_render_outcome(job);
        g_assert_cmpstr(text, ==, cases[i].text);
    }
}

#define CREATED 1767323045 /* 2026-01-02T03:04:05Z */

static void
test_report(void)
{
    g_autoptr(JsonObject) job = parse(DONE);
    g_autofree char *text = drv_render_report(job, CREATED + 125);
    g_assert_cmpstr(text, ==,
                    "job              7f3a\n"
                    "kind             migrate\n"
                    "vm               web1\n"
                    "role             source\n"
                    "peer             10.0.0.2:7000\n"
                    "state            done\n"
                    "created          2026-01-02T03:04:05Z (2 min ago)\n"
                    "took             12.3 s\n"
                    "down for         84 ms\n"
                    "ram              2.0 GiB, on the wire 700 MiB\n"
                    "pages            zero 10, lz4 30\n"
                    "rounds           4\n"
                    "lanes            4\n"
                    "reconnects       1\n"
                    "throttled        0%\n"
                    "CPU              1.25 s at the source, 2.00 s at the destination\n"
                    "verified         stream match, memory off\n"
                    "mode             relay, kvm\n");
    g_autoptr(JsonObject) active = parse(COPYING(PROGRESS));
    g_autofree char *live = drv_render_report(active, 0);
    g_assert_nonnull(strstr(live, "progress         " FULL "\n"));
    g_autoptr(JsonObject) failed =
        parse("{\"error\":{\"class\":\"qemu\",\"message\":\"two\\nlines\"}}");
    g_autofree char *error = drv_render_report(failed, 0);
    g_assert_cmpstr(error, ==, "error            two lines (qemu)\n");
    g_autoptr(JsonObject) empty = parse("{\"created\":\"yesterday\",\"result\":[],\"vm\":4}");
    g_autofree char *nothing = drv_render_report(empty, 0);
    g_assert_cmpstr(nothing, ==, "");
}

static void
test_rounds(void)
{
    g_autoptr(JsonObject) job = parse(
        "{\"result\":{\"rounds_detail\":[{\"pass\":1,\"last_pass\":1,\"ms\":1200,\"pages\":131072,"
        "\"bytes\":536870912,\"again\":0,\"dirty_rate\":1048576},9,{\"pass\":2,\"last_pass\":5,"
        "\"ms\":84,\"bytes\":8192,\"again\":1,\"dirty_rate\":null}],\"hot_regions\":[{\"block\":"
        "\"pc\\nram\",\"first_page\":512,\"pages\":512,\"count\":4711,\"rounds\":3},{}]}}");
    g_autofree char *text = drv_render_report(job, 0);
    g_assert_nonnull(
        strstr(text, "\nround 1          512 MiB in 1.2 s; 1.0 MiB a second were written to\n"
                     "rounds 2-5       8.0 KiB in 84 ms, 4.0 KiB of it again\n"
                     "written most     pc ram, 2.0 MiB from 0x200000 on: 4711 pages in 3 "
                     "rounds\n"
                     "written most     ?, 0 B from 0x0 on: 0 pages in 0 rounds\n"));
    g_autofree char *summary = drv_render_summary(job, 0);
    g_assert_null(strstr(summary, "round 1"));

    /* Of many the middle is left out. */
    g_autoptr(GString) json = g_string_new("{\"result\":{\"rounds_detail\":[");
    for (guint i = 1; i <= 40; i++)
        g_string_append_printf(json, "%s{\"pass\":%u,\"last_pass\":%u}", i > 1 ? "," : "", i, i);
    g_string_append(json, "]}}");
    g_autoptr(JsonObject) many = parse(json->str);
    g_autofree char *shown = drv_render_report(many, 0);
    g_assert_nonnull(strstr(shown, "\nround 8 "));
    g_assert_null(strstr(shown, "\nround 9 "));
    g_assert_nonnull(strstr(shown, "drover show --json)\nround 33 "));
    g_assert_nonnull(strstr(shown, "\nround 40 "));
}

static void
test_table(void)
{
    g_autoptr(JsonObject) reply = parse("{\"jobs\":[" DONE "," COPYING(PROGRESS) "," COPYING(
        "{\"connected\":false}") ",17,"
                                 "{\"job\":\"t1\",\"kind\":\"tunnel\",\"state\":\"failed\","
                                 "\"final\":true,"
                                 "\"error\":{\"message\":\"in use\"}}]}");
    JsonArray *jobs = drv_json_array(reply, "jobs");
    g_autofree char *text = drv_render_table(jobs, CREATED + 7200, 0);
    g_assert_cmpstr(
        text, ==,
        "ID    KIND     VM    STATE    ROLE    PEER           AGE  DETAIL\n"
        "7f3a  migrate  web1  done     source  10.0.0.2:7000  2 h  took 12.3 s, down 84 ms\n"
        "7f3a  -        web1  copying  -       -              -    62.4%\n"
        "7f3a  -        web1  copying  -       -              -    link down, reconnecting\n"
        "-     -        -     -        -       -              -\n"
        "t1    tunnel   -     failed   -       -              -    in use\n");
    g_autofree char *narrow = drv_render_table(jobs, CREATED + 7200, 40);
    g_auto(GStrv) lines = g_strsplit(narrow, "\n", -1);
    for (guint i = 0; lines[i] != NULL; i++)
        g_assert_cmpint(g_utf8_strlen(lines[i], -1), <=, 40);
    g_assert_nonnull(strstr(narrow, "...\n"));
}

static void
test_status(void)
{
    g_autoptr(JsonObject) status =
        parse("{\"version\":\"0.1.0\",\"uptime_s\":61,\"jobs\":{\"active\":1},\"x\\u001b\":null}");
    g_autofree char *text = drv_render_status(status);
    g_assert_cmpstr(text, ==,
                    "version          0.1.0\n"
                    "uptime s         61\n"
                    "jobs             {\"active\":1}\n"
                    "x?               null\n");
}

static void
test_numa(void)
{
    g_autoptr(JsonObject) host =
        parse("{\"nodes\":[{\"node\":0,\"cpus\":\"0-3\",\"memory\":68719476736,"
              "\"available\":34359738368,\"huge_pages\":[{\"size\":2097152,\"total\":8,\"free\":5},"
              "{\"size\":1073741824,\"total\":0,\"free\":0}],\"distances\":{\"0\":10,\"1\":21}},"
              "{\"node\":1,\"cpus\":\"\",\"memory\":0,\"distances\":{\"0\":21,\"1\":10}}],"
              "\"nics\":[{\"name\":\"eth0\",\"node\":0},{\"name\":\"tap0\",\"node\":null}],"
              "\"usable\":{\"cpus\":\"0-3\",\"memory_nodes\":\"0\"},\"placing\":false,"
              "\"threads\":[{\"node\":0,\"cpus\":\"0-3\"},{\"node\":null,\"cpus\":null}],"
              "\"guest\":{\"pid\":77,\"blocks\":[{\"block\":\"pc\\u001b.ram\",\"size\":1073741824,"
              "\"policy\":\"bind\",\"policy_nodes\":\"0-1\",\"present\":0.5,"
              "\"nodes\":{\"0\":0.75,\"1\":0.25}},{\"block\":\"vga\",\"size\":1048576,"
              "\"policy\":\"default\",\"present\":null,\"nodes\":{}}],"
              "\"cpus\":[{\"cpu\":0,\"thread\":78,\"cpus\":\"2\"}],\"unknown\":\"too dark\"}}");
    g_autofree char *text = drv_render_numa(host);
    g_assert_cmpstr(
        text, ==,
        "node 0  CPUs 0-3, 64.0 GiB of memory (32.0 GiB available), 5 of 8 huge pages of 2.0 MiB "
        "free, eth0\n"
        "node 1  CPUs none, no memory\n"
        "distances  0: 10 21,  1: 21 10\n"
        "droverd may use CPUs 0-3 and memory of nodes 0\n"
        "data thread 0  node 0, CPUs 0-3\n"
        "data thread 1  on any CPU\n"
        "nothing is placed on nodes: numa=off in droverd's configuration\n"
        "guest, in process 77\n"
        "  pc?.ram  1.0 GiB, 50% in memory, 75% on node 0 and 25% on node 1; policy bind 0-1\n"
        "  vga  1.0 MiB\n"
        "  virtual CPU 0  on CPUs 2\n"
        "  not all of it is known: too dark\n");
    g_autoptr(JsonObject) odd = parse("{\"nodes\":[7],\"threads\":{},\"guest\":{\"blocks\":[0]}}");
    g_autofree char *little = drv_render_numa(odd); /* and no crash */
    g_assert_true(g_str_has_prefix(little, "node 0"));
    g_autofree char *nothing = drv_render_numa(NULL);
    g_assert_cmpstr(nothing, ==, "");
    g_autoptr(JsonObject) failed = parse("{\"job\":\"x\",\"kind\":\"numa\",\"state\":\"failed\","
                                         "\"error\":{\"message\":\"no such socket\"}}");
    g_autofree char *outcome = drv_render_outcome(failed);
    g_assert_cmpstr(outcome, ==, "no such socket");
}

static void
test_disks(void)
{
    g_autoptr(JsonObject) job = parse(
        "{\"kind\":\"disks\",\"state\":\"done\",\"result\":{\"disks\":["
        "{\"id\":\"vda\",\"device\":\"/machine/d\",\"node\":\"#b1\",\"moved\":true,"
        "\"format\":\"qcow2\",\"size\":42949672960,\"allocated\":1073741824,"
        "\"file\":\"/vm/a\\u001b.img\",\"backing\":[{\"file\":\"/vm/base\",\"format\":\"raw\"},"
        "{\"file\":\"/vm/root\",\"format\":\"qcow2\"}],\"stays_behind\":[\"2 snapshots\"],"
        "\"dest\":{\"file\":\"/there/a.img\",\"format\":\"qcow2\",\"state\":\"kept\"}},"
        "{\"id\":\"cd\",\"device\":\"\",\"moved\":false,\"why_not\":\"no medium\"}],"
        "\"warnings\":[\"/there has little room\",7]}}");
    g_autofree char *text = drv_render_summary(job, 0);
    g_assert_cmpstr(text, ==,
                    "vda  qcow2, 40.0 GiB (takes up 1.0 GiB), moved by --disks mirror\n"
                    "  device   /machine/d\n"
                    "  node     #b1\n"
                    "  file     /vm/a?.img\n"
                    "  backing  /vm/base (raw)\n"
                    "           /vm/root (qcow2)\n"
                    "  left     2 snapshots\n"
                    "  there    /there/a.img (qcow2): was there already, and is left as it is\n"
                    "cd  not moved: no medium\n"
                    "warning: /there has little room\n");
    g_autoptr(JsonObject) none = parse("{\"kind\":\"disks\",\"result\":{\"disks\":[]}}");
    g_autofree char *nothing = drv_render_disks(none);
    g_assert_cmpstr(nothing, ==, "the VM has no disks\n");
    g_autoptr(JsonObject) odd = parse("{\"result\":{\"disks\":[7,{\"backing\":[1],\"dest\":{}}]}}");
    g_autofree char *little = drv_render_disks(odd); /* and no crash */
    g_assert_nonnull(strstr(little, "not moved"));
    g_autoptr(JsonObject) cancelled = parse("{\"kind\":\"disks\",\"state\":\"cancelled\"}");
    g_autofree char *outcome = drv_render_outcome(cancelled);
    g_assert_cmpstr(outcome, ==, "cancelled: images that were being made are removed");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/render/progress", test_progress);
    g_test_add_func("/render/summary", test_summary);
    g_test_add_func("/render/course", test_course);
    g_test_add_func("/render/predictions", test_predictions);
    g_test_add_func("/render/prediction", test_prediction);
    g_test_add_func("/render/outcome", test_outcome);
    g_test_add_func("/render/report", test_report);
    g_test_add_func("/render/rounds", test_rounds);
    g_test_add_func("/render/table", test_table);
    g_test_add_func("/render/status", test_status);
    g_test_add_func("/render/numa", test_numa);
    g_test_add_func("/render/disks", test_disks);
    return g_test_run();
}
