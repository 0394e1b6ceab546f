# Real mode: prints date and time of the real-time clock, then takes eight of its periodic interrupts.

        .intel_syntax noprefix
        .code16
        .include "pic.inc"

        .equ    RTC_INDEX, 0x70
        .equ    RTC_DATA, 0x71
        .equ    SECONDS, 0x00
        .equ    MINUTES, 0x02
        .equ    HOURS, 0x04
        .equ    DAY, 0x07
        .equ    MONTH, 0x08
        .equ    YEAR, 0x09
        .equ    CENTURY, 0x32           # where PC firmware has it
        .equ    A, 0x0A
        .equ    A_UIP, 0x80             # an update is near or under way
        .equ    A_1024_HZ, 0x26         # the usual crystal, and the rate of the periodic interrupt
        .equ    B, 0x0B
        .equ    B_24_HOURS, 0x02        # and BCD
        .equ    B_PIE, 0x40             # periodic interrupt
        .equ    C, 0x0C                 # flags: the next interrupt comes after they have been read

        .equ    RTC_IRQ, 8
        .equ    VECTOR, 4 * (IRQ_BASE + RTC_IRQ)
        .equ    TIMES, 8
        .equ    TEXT, 0x7E00            # just above the boot sector

        .macro  write_rtc index, value
        mov     al, \index
        out     RTC_INDEX, al
        mov     al, \value
        out     RTC_DATA, al
        .endm

        .global start
start:
        xor     ax, ax
        mov     ds, ax
        mov     es, ax
        mov     ss, ax
        mov     sp, offset start
        cld
        mov     word ptr [VECTOR], offset periodic
        mov     [VECTOR + 2], ax        # its segment
        call    com1_init

        mov     si, offset parts
        mov     di, TEXT
update: mov     ah, A                   # once UIP is 0, the registers stay as they are for 244 us
        call    read_rtc
        test    al, A_UIP
        jnz     update
next:   lodsw                           # AL = register, AH = separator
        push    ax
        mov     ah, al
        call    read_rtc
        aam     16                      # AH = high digit, AL = low digit
        add     ax, 0x3030              # '0'
        xchg    al, ah
        stosw
        pop     ax
        mov     al, ah
        test    al, al
        jz      next                    # none between century and year
        stosb
        cmp     al, '\n'
        jne     next
        mov     byte ptr [di], 0
        mov     si, TEXT
        call    com1_puts

        pic_init
        xor     bx, bx                  # interrupts so far
        write_rtc A, A_1024_HZ
        write_rtc B, B_PIE | B_24_HOURS
        mov     ah, C                   # an old flag would keep new ones from interrupting
        call    read_rtc
        mov     al, ~(1 << (RTC_IRQ - 8)) & 0xFF
        out     PIC2_DATA, al
        pic1_unmask 1 << CASCADE
wait:   sti                             # works from after the next instruction on, so that none comes in between
        hlt
        cli
        cmp     bx, TIMES
        jb      wait
        write_rtc B, B_24_HOURS
        mov     si, offset message
        call    com1_puts
halt:   hlt
        jmp     halt

periodic:
        inc     bx
        push    ax
        mov     ah, C
        call    read_rtc
        mov     al, EOI
        out     PIC2_COMMAND, al
        out     PIC1_COMMAND, al
        pop     ax
        iret

# Reads register AH into AL.
read_rtc:
        mov     al, ah
        out     RTC_INDEX, al
        in      al, RTC_DATA
        ret

        .include "com1.inc"

        .section .rodata
parts:
        .byte   CENTURY, 0, YEAR, '-', MONTH, '-', DAY, ' '
        .byte   HOURS, ':', MINUTES, ':', SECONDS, '\n'
message:
        .asciz  "8 interrupts\n"
