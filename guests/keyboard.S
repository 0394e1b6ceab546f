# Real mode: shows the scan codes of the keys on the text screen in hexadecimal, until Escape is pressed.

        .intel_syntax noprefix
        .code16
        .include "pic.inc"

        .equ    KBD_DATA, 0x60
        .equ    KBD_STATUS, 0x64        # when read
        .equ    KBD_COMMAND, 0x64       # when written
        .equ    STATUS_IBF, 0x02        # the controller has not taken the last byte yet
        .equ    WRITE_CTR, 0x60         # command: the next data byte is the controller's command byte
        .equ    CTR_QUIET, 0x64         # keys translated to scan code set 1, mouse off
        .equ    CTR_INTERRUPTS, 0x65    # and an interrupt for each byte
        .equ    ESCAPE, 0x01

        .equ    KBD_IRQ, 1
        .equ    VECTOR, 4 * (IRQ_BASE + KBD_IRQ)
        .equ    SCREEN, 0xB800          # segment of the text screen: character, attribute, and so on
        .equ    ATTRIBUTE, 0x0A         # light green on black

        .macro  write_kbd port, value
        call    wait_kbd
        mov     al, \value
        out     \port, al
        .endm

        .global start
start:
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, offset start
        cld
        mov     word ptr [VECTOR], offset key
        mov     [VECTOR + 2], ax        # its segment
        mov     ax, SCREEN
        mov     es, ax
        xor     di, di
        mov     bx, offset digits

        # A key may have been pressed already: that its interrupt is switched on gives the edge that the PIC waits for.
        write_kbd KBD_COMMAND, WRITE_CTR
        write_kbd KBD_DATA, CTR_QUIET
        pic_init
        pic1_unmask 1 << KBD_IRQ
        write_kbd KBD_COMMAND, WRITE_CTR
        write_kbd KBD_DATA, CTR_INTERRUPTS
wait:   sti                             # works from after the next instruction on, so that no key comes in between
        hlt
        cmp     cl, ESCAPE
        jne     wait
halt:   hlt
        jmp     halt

key:    in      al, KBD_DATA
        mov     cl, al
        aam     16                      # AH = high digit, AL = low digit
        push    ax
        mov     al, ah
        xlatb
        mov     ah, ATTRIBUTE
        stosw
        pop     ax
        xlatb
        mov     ah, ATTRIBUTE
        stosw
        mov     al, ' '
        stosw
        mov     al, EOI
        out     PIC1_COMMAND, al
        retf    2                       # as iret, but the flags stay as they are: no interrupt until the next sti

# Waits until the controller takes a byte.
wait_kbd:
        in      al, KBD_STATUS
        test    al, STATUS_IBF
        jnz     wait_kbd
        ret

        .section .rodata
digits:
        .ascii  "0123456789abcdef"
