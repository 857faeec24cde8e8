/* SPDX-License-Identifier: Apache-2.0 */
#include "engine/job/ask.h"

typedef struct {
    DrvSteps *steps; /* of the owner, which the ticket keeps */
    DrvTicket *ticket;
    GDestroyNotify unref;
    DrvAnswered answered;
} Question;

static void
hear(GObject *source, GAsyncResult *result, gpointer data)
{
    g_autofree Question *question = data;
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonNode) reply = qmp_client_execute_finish(QMP_CLIENT(source), result, &error);
    gpointer owner;
    gboolean at_hand = drv_ticket_redeem(question->ticket, &owner);
    if (at_hand && question->answered != NULL)
        question->answered(owner, reply, &error);
    else if (at_hand)
        drv_steps_over(question->steps, g_steal_pointer(&error));
    question->unref(owner);
}

static Question *
question_new(DrvSteps *steps, DrvTicket *ticket, GDestroyNotify unref, DrvAnswered answered)
{
    Question *question = g_new(Question, 1);
    *question = (Question){steps, ticket, unref, answered};
    return question;
}

void
drv_steps_ask(DrvSteps *steps, DrvTicket *ticket, GDestroyNotify unref, QmpClient *qmp,
              const char *command, JsonNode *args, guint timeout_ms, DrvAnswered answered)
{
    qmp_client_execute_async(qmp, command, args, timeout_ms, steps->cancellable, hear,
                             question_new(steps, ticket, unref, answered));
}

void
drv_steps_ask_with_fd(DrvSteps *steps, DrvTicket *ticket, GDestroyNotify unref, QmpClient *qmp,
                      const char *command, JsonNode *args, int fd, guint timeout_ms,
                      DrvAnswered answered)
{
    qmp_client_execute_with_fd_async(qmp, command, args, fd, timeout_ms, steps->cancellable, hear,
                                     question_new(steps, ticket, unref, answered));
}
