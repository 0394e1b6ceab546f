# Real mode: sends back what arrives on the serial port, until a `q`.
# Leaves the UART as it is, since a reset of the FIFOs would drop input that is already there.

        .intel_syntax noprefix
        .code16

        .equ    RBR, 0x3F8              # receiver buffer register, when read
        .equ    THR, 0x3F8              # transmitter holding register, when written
        .equ    LSR, 0x3FD              # line status
        .equ    LSR_DR, 0x01            # a byte has arrived
        .equ    LSR_THRE, 0x20          # THR is empty

        .global start
start:
        mov     dx, LSR
receive:
        in      al, dx
        test    al, LSR_DR
        jz      receive
        mov     dx, RBR
        in      al, dx
        cmp     al, 'q'
        je      quit
        mov     ah, al
        mov     dx, LSR
transmit:
        in      al, dx
        test    al, LSR_THRE
        jz      transmit
        mov     dx, THR
        mov     al, ah
        out     dx, al
        jmp     start
quit:
        cli
halt:   hlt
        jmp     halt
