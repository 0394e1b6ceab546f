# Protected mode: starts the other processors by INIT and SIPI. Each adds 1000 to a counter that all share, one at a
# time, and then counts itself; the first processor prints both when all have come. Needs `--cpus`, which it asks
# the firmware configuration device for.

        .intel_syntax noprefix
        .code32

        .equ    FW_CFG_SELECTOR, 0x510
        .equ    FW_CFG_DATA, 0x511
        .equ    NB_CPUS, 0x05

        .equ    ICR_LOW, 0xFEE00300     # interrupt command register of the local APIC
        .equ    SPURIOUS, 0xFEE000F0    # bit 8 switches the local APIC on
        .equ    INIT_ALL_OTHERS, 0xC4500
        .equ    SIPI_ALL_OTHERS, 0xC4600

        .equ    TRAMPOLINE, 0x8000      # where the others start, in real mode: page 8
        .equ    COUNTER, 0x9000
        .equ    ARRIVED, 0x9004
        .equ    TURNS, 1000

        .global start
start:
        mov     dword ptr [COUNTER], 0
        mov     dword ptr [ARRIVED], 0
        mov     esi, offset others
        mov     edi, TRAMPOLINE
        mov     ecx, offset others_bytes
        rep movsb

        or      dword ptr [SPURIOUS], 0x100
        mov     dword ptr [ICR_LOW], INIT_ALL_OTHERS
        mov     dword ptr [ICR_LOW], SIPI_ALL_OTHERS | TRAMPOLINE >> 12

        mov     dx, FW_CFG_SELECTOR
        mov     ax, NB_CPUS
        out     dx, ax
        mov     dx, FW_CFG_DATA
        in      al, dx
        movzx   ebx, al                 # how many there are
        mov     ecx, TURNS
count:  lock inc dword ptr [COUNTER]
        loop    count
        lock inc dword ptr [ARRIVED]
wait:   pause
        cmp     [ARRIVED], ebx
        jb      wait

        call    com1_init
        mov     eax, [ARRIVED]
        call    print_number
        mov     esi, offset processors
        call    com1_puts
        mov     eax, [COUNTER]
        call    print_number
        mov     esi, offset line_end
        call    com1_puts
        xor     eax, eax
        out     0xF4, al
halt:   cli
        hlt
        jmp     halt

# Prints EAX in decimal.
print_number:
        sub     esp, 16
        lea     esi, [esp + 15]
        mov     byte ptr [esi], 0
        mov     ebx, 10
1:      xor     edx, edx
        div     ebx
        add     dl, '0'
        dec     esi
        mov     [esi], dl
        test    eax, eax
        jnz     1b
        call    com1_puts
        add     esp, 16
        ret

        .include "com1.inc"

processors:
        .asciz  " processors counted to "
line_end:
        .asciz  "\n"

        .code16
others:
        xor     ax, ax
        mov     ds, ax
        mov     cx, TURNS
1:      lock inc dword ptr [COUNTER]
        loop    1b
        lock inc dword ptr [ARRIVED]
2:      cli
        hlt
        jmp     2b
        .equ    others_bytes, . - others
