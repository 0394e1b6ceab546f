# Real mode: never exits, so that only the host can stop it.

        .intel_syntax noprefix
        .code16
        .global start
start:
        jmp     .
