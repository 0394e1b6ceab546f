# Real mode: switches the machine off, by ACPI's power management register.

        .intel_syntax noprefix
        .code16

        .equ    PM1_CNT, 0x604          # where QEMU's PCs have it
        .equ    SLP_EN, 0x2000          # enter sleep; type 0 is soft off there

        .global start
start:
        mov     dx, PM1_CNT
        mov     ax, SLP_EN
        out     dx, ax
        cli                             # reached only where the register is another one
halt:   hlt
        jmp     halt
