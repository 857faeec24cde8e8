/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

#include "engine/image/extents.h"

/*
 * Where the data of the qcow2 in 'fd' is, of PLAIN and ZERO extents, to be freed by the caller, and
 * its disk's size. NULL where it is no qcow2, a damaged one, or one with anything special:
 * that is for QEMU to read, or to tell what is wrong with it. Nobody may write it meanwhile.
 */
GArray *drv_qcow2_look(int fd, guint64 *size);
