# Real mode: throws the die of docs/examples/dice.py ten times and prints what it shows on the debug console.

        .intel_syntax noprefix
        .code16

        .equ    DEBUG_CONSOLE, 0xE9
        .equ    EXIT_PORT, 0xF4
        .equ    ROLL, 0x501             # when written
        .equ    STATUS, 0x501           # when read
        .equ    READY, 0x01             # VALUE is there
        .equ    VALUE, 0x502
        .equ    THROWS, 10

        .global start
start:
        mov     cx, THROWS
next:   mov     dx, ROLL
        out     dx, al
wait:   in      al, dx                  # STATUS
        test    al, READY
        jz      wait
        mov     dx, VALUE
        in      al, dx
        add     al, '0'
        out     DEBUG_CONSOLE, al
        loop    next
        mov     al, '\n'
        out     DEBUG_CONSOLE, al
        mov     al, 0
        out     EXIT_PORT, al
        cli                             # reached only where nothing answers the exit port
halt:   hlt
        jmp     halt
