# Real mode: ends with a status of its own choice.

        .intel_syntax noprefix
        .code16

        .equ    EXIT_PORT, 0xF4

        .global start
start:
        mov     al, 42
        out     EXIT_PORT, al
        cli                             # reached only where nothing answers the exit port
halt:   hlt
        jmp     halt
