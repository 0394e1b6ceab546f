# Real mode: resets the machine by the chipset's reset control register.

        .intel_syntax noprefix
        .code16

        .equ    RST_CNT, 0xCF9
        .equ    SYS_RST, 0x02           # what: the whole system
        .equ    RST_CPU, 0x04           # when this goes from 0 to 1

        .global start
start:
        mov     dx, RST_CNT
        mov     al, SYS_RST
        out     dx, al
        mov     al, SYS_RST | RST_CPU
        out     dx, al
        cli                             # reached only where there is no such register
halt:   hlt
        jmp     halt
