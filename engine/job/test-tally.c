/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/tally.h"

#include <string.h>

static void
end_job(DrvTally *tally, const char *kind, DrvJobRole role, DrvJobState state, const char *result)
{
    DrvJobRecord *rec = drv_job_record_new("1", role, "{}");
    rec->state = state;
    rec->result = g_strdup(result);
    drv_tally_ended(tally, kind, rec);
    drv_job_record_free(rec);
}

static void
assert_has(const DrvTally *tally, const char *line)
{
    g_autoptr(GString) text = g_string_new("\n");
    g_autofree char *whole = g_strdup_printf("\n%s\n", line);
    drv_tally_write(tally, text);
    if (strstr(text->str, whole) == NULL)
        g_error("'%s' is not in:%s", line, text->str);
}

static void
test_nothing(void)
{
    g_autoptr(DrvTally) tally = drv_tally_new();
    assert_has(tally, "# TYPE drover_jobs_ended_total counter");
    assert_has(tally, "drover_downtime_seconds_bucket{le=\"+Inf\"} 0");
    assert_has(tally, "drover_numa_bytes_total{access=\"read\",node=\"remote\"} 0");
}

static void
test_jobs(void)
{
    g_autoptr(DrvTally) tally = drv_tally_new();
    const char *moved = "{\"ram\":{\"bytes\":1000,\"wire_bytes\":400},\"disk\":{\"bytes\":0},"
                        "\"reconnects\":2,\"downtime_ms\":120,\"downtime_kept\":true}";
    end_job(tally, "migrate", DRV_ROLE_SOURCE, DRV_STATE_DONE, moved);
    end_job(tally, "migrate", DRV_ROLE_SOURCE, DRV_STATE_DONE,
            "{\"ram\":{\"bytes\":24,\"wire_bytes\":24},\"disk\":{\"bytes\":9,\"wire_bytes\":8},"
            "\"downtime_ms\":6000,\"downtime_kept\":false}");
    /* One that was undone had no downtime. */
    end_job(tally, "migrate", DRV_ROLE_SOURCE, DRV_STATE_FAILED,
            "{\"ram\":{\"bytes\":1,\"wire_bytes\":1},\"downtime_ms\":0}");
    end_job(tally, "migrate", DRV_ROLE_DEST, DRV_STATE_DONE, NULL);
    end_job(tally, "copy", DRV_ROLE_SOURCE, DRV_STATE_CANCELLED, "garbage");
    assert_has(tally, "drover_jobs_ended_total{kind=\"migrate\",role=\"source\","
                      "outcome=\"completed\"} 2");
    assert_has(tally, "drover_jobs_ended_total{kind=\"migrate\",role=\"source\","
                      "outcome=\"failed\"} 1");
    assert_has(tally,
               "drover_jobs_ended_total{kind=\"migrate\",role=\"dest\",outcome=\"completed\"} 1");
    assert_has(tally,
               "drover_jobs_ended_total{kind=\"copy\",role=\"source\",outcome=\"cancelled\"} 1");
    assert_has(tally, "drover_carried_bytes_total{of=\"ram\"} 1025");
    assert_has(tally, "drover_wire_bytes_total{of=\"ram\"} 425");
    assert_has(tally, "drover_carried_bytes_total{of=\"disk\"} 9");
    assert_has(tally, "drover_reconnects_total 2");
    assert_has(tally, "drover_downtime_seconds_bucket{le=\"0.1\"} 0");
    assert_has(tally, "drover_downtime_seconds_bucket{le=\"0.2\"} 1");
    assert_has(tally, "drover_downtime_seconds_bucket{le=\"5\"} 1");
    assert_has(tally, "drover_downtime_seconds_bucket{le=\"+Inf\"} 2");
    assert_has(tally, "drover_downtime_seconds_sum 6.12");
    assert_has(tally, "drover_downtime_seconds_count 2");
    assert_has(tally, "drover_downtime_broken_total 1");
}

static void
test_placed(void)
{
    g_autoptr(DrvTally) tally = drv_tally_new();
    const DrvGuestPlaced placed = {.bytes = 1600, .sampled = 100, .pages_local = 75};
    const DrvGuestPlaced unknown = {.bytes = 1600};
    drv_tally_placed(tally, &placed);
    drv_tally_placed(tally, &unknown);
    assert_has(tally, "drover_numa_bytes_total{access=\"write\",node=\"local\"} 1200");
    assert_has(tally, "drover_numa_bytes_total{access=\"write\",node=\"remote\"} 400");
    assert_has(tally, "drover_numa_bytes_total{access=\"read\",node=\"remote\"} 1600");
}

int
main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/tally/nothing", test_nothing);
    g_test_add_func("/tally/jobs", test_jobs);
    g_test_add_func("/tally/placed", test_placed);
    return g_test_run();
}
