# SPDX-License-Identifier: Apache-2.0
"""What the tests and the benchmarks are built from.

    build      where the built programs and guests are
    qmp        a synchronous QMP client
    qemu       finds the QEMUs, describes guests, runs them
    console    what a guest says, with times
    memory     RAM of stopped machines: dumped, compared, judged
    native     QEMU's own migration, without drover
    daemon     droverd, the drover command, certificates
    handover   migrations through two droverds that must succeed
    link       network namespaces with a shaped link
    images     disk images: made, compared, digested
    relay      a TCP relay that cuts, stalls and resets on command
    pki        certificates that must be refused
    limit      ends a test that hangs
"""
