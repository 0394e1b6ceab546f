# Real mode: fills the text screen with lines, each in colours of its own; what does not fit scrolls away, and the
# cursor follows.

        .intel_syntax noprefix
        .code16

        .equ    SCREEN, 0xB800          # segment of the text screen: character, attribute, and so on
        .equ    COLUMNS, 80
        .equ    ROWS, 25
        .equ    BLANK, 0x0720           # light grey on black

        .equ    CRTC_INDEX, 0x3D4
        .equ    CRTC_DATA, 0x3D5
        .equ    CURSOR_LOCATION_HIGH, 0x0E
        .equ    CURSOR_LOCATION_LOW, 0x0F

        .equ    LINES, 30

        .global start
start:
        xor     ax, ax
        mov     ds, ax
        mov     ss, ax
        mov     sp, offset start
        cld
        mov     ax, SCREEN
        mov     es, ax
        mov     ax, BLANK
        xor     di, di
        mov     cx, COLUMNS * ROWS
        rep stosw

        xor     bl, bl                  # row
        mov     bh, 1                   # number of the line, and its attribute: blue on black is the first
line:   mov     al, 2 * COLUMNS
        mul     bl
        mov     di, ax
        mov     si, offset text
        mov     cx, offset text_length
1:      lodsb
        mov     ah, bh
        stosw
        loop    1b
        mov     al, bh
        aam                             # AH = tens, AL = ones
        add     ax, 0x3030              # '0'
        mov     cl, al
        mov     al, ah
        mov     ah, bh
        stosw
        mov     al, cl
        stosw

        inc     bl
        cmp     bl, ROWS
        jb      2f
        call    scroll
        dec     bl
2:      call    move_cursor
        inc     bh
        cmp     bh, LINES
        jbe     line
        cli
halt:   hlt
        jmp     halt

# Moves all rows up by one.
scroll:
        push    ds
        mov     ax, SCREEN
        mov     ds, ax
        mov     si, 2 * COLUMNS
        xor     di, di
        mov     cx, COLUMNS * (ROWS - 1)
        rep movsw
        mov     ax, BLANK
        mov     cx, COLUMNS
        rep stosw
        pop     ds
        ret

# Moves the cursor to the beginning of row BL.
move_cursor:
        mov     al, COLUMNS
        mul     bl
        mov     cx, ax
        mov     dx, CRTC_INDEX
        mov     al, CURSOR_LOCATION_HIGH
        out     dx, al
        inc     dx
        mov     al, ch
        out     dx, al
        dec     dx
        mov     al, CURSOR_LOCATION_LOW
        out     dx, al
        inc     dx
        mov     al, cl
        out     dx, al
        ret

        .section .rodata
text:
        .ascii  "This is line "
        .equ    text_length, . - text
