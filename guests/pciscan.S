# 32-bit protected mode: lists the functions on PCI bus 0, found by configuration mechanism 1, on the serial port.

        .intel_syntax noprefix
        .code32

        .equ    CONFIG_ADDRESS, 0xCF8
        .equ    CONFIG_DATA, 0xCFC
        .equ    ENABLE, 1 << 31         # in CONFIG_ADDRESS; bus from bit 16, device from bit 11, function from bit 8
        .equ    NEXT_DEVICE, 1 << 11
        .equ    NEXT_BUS, 1 << 16

        .equ    VENDOR_ID, 0x00         # and DEVICE_ID in the upper half
        .equ    ABSENT, 0xFFFF
        .equ    REVISION, 0x08          # and the class code from bit 8
        .equ    CACHE_LINE_SIZE, 0x0C   # and the header type from bit 16
        .equ    MULTI_FUNCTION, 1 << 23 # there are others than function 0

        .equ    LINE, 0x10000           # RAM that nothing else uses

        .global start
start:
        call    com1_init
        mov     ebx, ENABLE
device: call    show                    # function 0
        jc      next
        mov     cl, CACHE_LINE_SIZE
        call    read_config
        test    eax, MULTI_FUNCTION
        jz      next
1:      inc     bh                      # the next function
        call    show
        mov     al, bh
        not     al
        test    al, 7
        jnz     1b
        and     bh, ~7
next:   add     ebx, NEXT_DEVICE
        test    ebx, NEXT_BUS
        jz      device
        cli
halt:   hlt
        jmp     halt

# Prints the function that EBX addresses; carry if there is none.
show:   mov     cl, VENDOR_ID
        call    read_config
        cmp     ax, ABSENT
        stc
        je      1f
        push    eax
        mov     edi, LINE
        mov     edx, ebx
        shl     edx, 8                  # the bus
        mov     ecx, 2
        call    hex
        mov     al, ':'
        stosb
        mov     edx, ebx
        shr     edx, 11                 # the device, 5 bits
        shl     edx, 27
        shr     edx, 3
        mov     ecx, 2
        call    hex
        mov     al, '.'
        stosb
        mov     edx, ebx
        shl     edx, 21                 # the function, 3 bits
        shr     edx, 1
        mov     ecx, 1
        call    hex
        mov     al, ' '
        stosb
        mov     edx, [esp]
        shl     edx, 16                 # VENDOR_ID
        mov     ecx, 4
        call    hex
        mov     al, ':'
        stosb
        pop     edx                     # DEVICE_ID
        mov     ecx, 4
        call    hex
        mov     al, ' '
        stosb
        mov     cl, REVISION
        call    read_config
        mov     edx, eax                # class, subclass, programming interface
        mov     ecx, 6
        call    hex
        mov     eax, '\n'               # and the zero that ends the string
        stosw
        mov     esi, LINE
        call    com1_puts
        clc
1:      ret

# Reads into EAX the four bytes at offset CL of the configuration space of the function that EBX addresses.
read_config:
        mov     eax, ebx
        mov     al, cl
        mov     dx, CONFIG_ADDRESS
        out     dx, eax
        mov     dx, CONFIG_DATA
        in      eax, dx
        ret

# Stores the ECX highest hexadecimal digits of EDX at EDI.
hex:    rol     edx, 4
        mov     eax, edx
        and     eax, 15
        mov     al, [digits + eax]
        stosb
        loop    hex
        ret

        .include "com1.inc"

        .section .rodata
digits:
        .ascii  "0123456789abcdef"
