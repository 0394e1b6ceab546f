# Real mode: string I/O.  Prints to the debug console with `rep outsb`, reads from it with
# `rep insb`, and prints what it read in hexadecimal.

        .intel_syntax noprefix
        .code16

        .equ    DEBUG_CONSOLE, 0xE9
        .equ    BUFFER, 0x7E00          # just above the boot sector
        .equ    COUNT, 4

        .global start
start:
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        cld
        mov     dx, DEBUG_CONSOLE

        mov     si, offset message
        mov     cx, offset message_length
        rep outsb

        mov     di, BUFFER
        mov     cx, COUNT
        rep insb

        mov     si, BUFFER
        mov     cx, COUNT
        mov     bx, offset digits
next:   lodsb
        aam     16                      # AH = high digit, AL = low digit
        xchg    al, ah
        xlatb
        out     dx, al
        mov     al, ah
        xlatb
        out     dx, al
        loop    next
        mov     al, '\n'
        out     dx, al

        cli
halt:   hlt
        jmp     halt

        .section .rodata
message:
        .ascii  "Hello from rep outsb!\nrep insb read "
        .equ    message_length, . - message
digits:
        .ascii  "0123456789ABCDEF"
