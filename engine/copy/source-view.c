/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/copy/private.h"

#include "common/error.h"
#include "common/json.h"

#include <string.h>

/*
 * A copy of a disk of a running guest. A view of it (view.h) is opened first, and taken back at
 * last, however it went. It is lost with this daemon, so the next one takes it back and lets the
 * copy fail.
 *
 * Several disks of a guest are a group (group.h). As QEMU has one NBD server, and serves one client
 * a QMP socket, they take turns:
 *
 *   begin -> turn: look, copy.check -> turn: open the view -> send -> copy.finish -> take the view
 *   back -> held
 *
 * All are looked at before any is read, so that one that cannot be copied, or not to there, is
 * found before anything is waited for. One that is held has nothing in QEMU but its bitmap, which
 * goes if the group fails. Nor can it be sent once more: with the session the group is lost.
 */

GError *
copy_view_lost(const char *why)
{
    /* As if the other end were away: what it has stays there. */
    return g_error_new(DRV_ERROR, DRV_ERROR_TIMEOUT,
                       "%s while the guest's disk was copied: start the copy again, what is there "
                       "already is not sent again",
                       why);
}

/* --- turns --- */

void
copy_view_begin(DrvCopy *self)
{
    if (self->spec->group != NULL)
        drv_copy_group_wait_turn(self->groups, &self->base);
    else
        drv_disk_view_open(self->view, copy_users());
}

void
copy_view_turn(DrvJob *job)
{
    DrvCopy *self = (DrvCopy *)job;
    if (self->looked)
        drv_disk_view_open(self->view, copy_users());
    else
        drv_disk_view_look(self->view);
}

static void
checked(DrvPeer *peer, JsonObject *ok, const GError *error, gpointer data)
{
    g_autoptr(DrvJob) job = data;
    DrvCopy *self = (DrvCopy *)job;
    if (!self->checking || peer != self->peer || drv_peer_is_dead(peer))
        return;
    copy_drop_attempt(self);
    /* An older daemon does not know the call: it says what is wrong when the disk is sent. */
    if (error != NULL && !g_error_matches(error, DRV_ERROR, DRV_ERROR_NOT_FOUND)) {
        copy_fail(self, g_error_new(error->domain, error->code, "at the destination: %s",
                                    error->message));
        return;
    }
    self->looked = TRUE;
    drv_copy_group_wait_turn(self->groups, job);
}

void
copy_view_ask_check(DrvCopy *self)
{
    drv_peer_call(self->peer, "copy.check",
                  copy_target_args(self, drv_disk_view_format(self->view)), checked,
                  drv_job_ref(&self->base));
}

static void
looked(DrvJob *job)
{
    DrvCopy *self = (DrvCopy *)job;
    self->checking = TRUE;
    copy_connect(self);
}

/* --- reading --- */

static void
opened(DrvJob *job)
{
    DrvCopy *self = (DrvCopy *)job;
    self->format = g_strdup(drv_disk_view_format(self->view));
    self->store = drv_disk_view_store(self->view);
    copy_go_on(self);
}

static void
failed(DrvJob *job, GError *error)
{
    copy_fail((DrvCopy *)job, error);
}

gboolean
copy_view_is_gone(const DrvCopy *self)
{
    return self->parting || self->parted;
}

/* --- taking it back --- */

void
copy_view_part(DrvCopy *self)
{
    self->parting = TRUE;
    drv_disk_view_undo(self->view, TRUE);
}

/* The image is good, whatever became of the view. */
static void
note_left(DrvJob *job, const char *left)
{
    const char *text = job->rec->result;
    g_autoptr(JsonObject) result =
        left != NULL && text != NULL ? drv_json_parse_object(text, strlen(text), NULL) : NULL;
    if (result == NULL)
        return;
    json_object_set_string_member(result, "left", left);
    g_free(job->rec->result);
    job->rec->result = drv_json_text(result);
}

static void
end_as_done(DrvCopy *self, const char *left)
{
    note_left(&self->base, left);
    drv_job_end(&self->base, DRV_STATE_DONE);
}

void
copy_view_end(DrvCopy *self)
{
    if (self->parted)
        end_as_done(self, self->left);
    else
        drv_disk_view_undo(self->view, TRUE);
}

static void
end_as_failed(DrvCopy *self, const char *left)
{
    DrvJob *job = &self->base;
    if (left != NULL && job->error != NULL)
        g_prefix_error(&job->error, "%s; ", left);
    else if (left != NULL)
        job->error = g_error_new_literal(DRV_ERROR, DRV_ERROR_QEMU, left);
    copy_end_as_failed(self);
}

void
copy_view_take_back(DrvCopy *self)
{
    if (self->parted && self->spec->bitmap == NULL)
        end_as_failed(self, self->left);
    else
        drv_disk_view_undo(self->view, FALSE);
}

/* QEMU is free for the next one of the group. */
static void
part(DrvCopy *self)
{
    drv_copy_group_end_turn(self->groups, &self->base);
    copy_hold(self);
}

static void
undone(DrvJob *job, const char *left)
{
    DrvCopy *self = (DrvCopy *)job;
    g_autoptr(DrvJob) keep = drv_job_ref(job);
    gboolean over = drv_job_state(job) == DRV_STATE_ROLLING_BACK;
    if (self->parting) {
        self->parting = FALSE;
        self->parted = TRUE;
        self->left = g_strdup(left);
        if (over) /* it was given up since, and the bitmap goes, too */
            copy_view_take_back(self);
        else
            part(self);
    } else if (over) {
        end_as_failed(self, left);
    } else {
        end_as_done(self, left);
    }
}

const DrvDiskViewOps copy_view_ops = {looked, opened, failed, undone};
