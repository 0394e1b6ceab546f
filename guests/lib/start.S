# Where a kernel starts: segments and a stack of its own, then kernel(EAX, EBX) in C, whose result is the exit status.

        .intel_syntax noprefix
        .global start

        .section .bss
        .balign 16
        .skip   16384
stack_top:

        .section .data
        .balign 8
gdt:    .quad   0
#ifdef __x86_64__
        .quad   0x00AF9B000000FFFF      # 0x08: 64-bit code
#else
        .quad   0x00CF9B000000FFFF      # 0x08: 32-bit code
#endif
        .quad   0x00CF93000000FFFF      # 0x10: data
gdtr:   .word   . - gdt - 1
#ifdef __x86_64__
        .quad   gdt
#else
        .long   gdt
#endif

        .text
#ifdef __x86_64__
        .code64
start:  lgdt    [rip + gdtr]
        lea     rsp, [rip + stack_top]
        push    0x08
        lea     rdx, [rip + 1f]
        push    rdx
        retfq
1:      mov     edi, eax
        mov     rsi, rbx
#else
        .code32
start:  lgdt    [gdtr]
        mov     esp, offset stack_top
        jmp     0x08:1f
1:      push    0                       # the stack is aligned as C expects it
        push    0
        push    ebx
        push    eax
#endif
        mov     dx, 0x10
        mov     ds, edx
        mov     es, edx
        mov     ss, edx
        call    kernel
#ifdef __x86_64__
        mov     edi, eax
#else
        mov     [esp], eax
#endif
        call    quit

        .section .note.GNU-stack, ""
