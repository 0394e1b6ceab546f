# 32-bit protected mode: accesses of every size and alignment to memory that is not there.
# The registers that were read into keep what came back.

        .intel_syntax noprefix
        .code32

        .equ    HOLE, 0xD0000000        # guest-physical, far above the RAM

        .global start
start:
        mov     ebx, HOLE

        mov     byte ptr [ebx], 0x11    # 1, 2 and 4 bytes, aligned
        mov     word ptr [ebx + 2], 0x2222
        mov     dword ptr [ebx + 4], 0x44444444
        mov     cl, [ebx]
        mov     dx, [ebx + 2]
        mov     esi, [ebx + 4]

        mov     word ptr [ebx + 0x11], 0xBBAA
        mov     dword ptr [ebx + 0x15], 0xDDCCBBAA
        mov     edi, [ebx + 0x15]

        mov     dword ptr [ebx + 0xFFE], 0x44332211     # two accesses, one in each page
        mov     ebp, [ebx + 0xFFE]

        xor     dword ptr [ebx + 0x20], 1               # a read, then a write

        cli
halt:   hlt
        jmp     halt
