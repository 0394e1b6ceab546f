"""What real guests do with a PC's pair of 8259A."""

from __future__ import annotations

from tests.pics import EOI, REMAP, Board


def test_linux_probe_and_init() -> None:
    """Linux, probe_8259A and init_8259A: the master's mask reads back, then ICWs to 0x30 and 0x38, all masked."""
    board = Board((0xA1, 0xFF), (0x21, 0xFB))
    assert board.read(0x21) == 0xFB
    board.out((0x21, 0xFF), (0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 1))
    board.out((0xA0, 0x11), (0xA1, 0x38), (0xA1, 2), (0xA1, 1), (0x21, 0xFF), (0xA1, 0xFF))
    assert (board.read(0x21), board.read(0xA1)) == (0xFF, 0xFF)
    board.up(0)
    assert not board.intr.level
    assert not board.pair.can_interrupt
    board.out((0x21, 0xFE))
    assert board.take() == (0, 0x30)


def test_linux_mask_and_ack() -> None:
    """Linux, mask_and_ack_8259A: reads the mask, masks, then specific EOIs to the slave and to input 2."""
    board = Board(*REMAP, (0x21, 0xFB), (0xA1, 0xBF))
    board.up(14)
    board.take()
    assert board.read(0xA1) == 0xBF
    board.out((0xA1, 0xFF), (0xA0, 0x66), (0x20, 0x62))
    assert (board.in_service, board.intr.level) == ((0, 0), False)


def test_linux_tells_a_spurious_interrupt_by_isr() -> None:
    """Linux, i8259A_irq_real: selects ISR, reads, selects IRR again; i8259A_irq_pending reads IRR without selecting."""
    board = Board(*REMAP)
    board.pair.acknowledge()
    board.out((0x20, 0x0B))
    assert not board.read(0x20) & 0x80
    board.out((0x20, 0x0A))
    board.up(7)
    assert board.read(0x20) & 0x80
    board.take()
    board.out((0x20, 0x0B))
    assert board.read(0x20) & 0x80
    board.out((0x20, 0x0A))
    assert not board.read(0x20) & 0x80


def test_linux_counts_the_timer_through_automatic_eoi() -> None:
    """Linux, init_8259A(1) on machines whose timer goes through the 8259A: each edge interrupts, without any EOI."""
    board = Board((0x21, 0xFF), (0x20, 0x11), (0x21, 0x30), (0x21, 4), (0x21, 3), (0xA0, 0x11), (0xA1, 0x38))
    board.out((0xA1, 2), (0xA1, 1), (0x21, 0xFE), (0xA1, 0xFF))
    for _ in range(3):
        board.up(0)
        assert board.take() == (0, 0x30)
        board.down(0)


def test_xv6_picinit() -> None:
    """xv6, picirq.c: masks all, ICW4 with AEOI in both, then OCW3 0x68 and 0x0a, then the mask with IRQ 2 enabled."""
    board = Board((0x21, 0xFF), (0xA1, 0xFF), (0x20, 0x11), (0x21, 32), (0x21, 4), (0x21, 3))
    board.out((0xA0, 0x11), (0xA1, 40), (0xA1, 2), (0xA1, 3))
    board.out((0x20, 0x68), (0x20, 0x0A), (0xA0, 0x68), (0xA0, 0x0A), (0x21, 0xFB), (0xA1, 0xFF))
    board.out((0x21, 0xF9))
    board.up(1)
    assert board.take() == (1, 33)
    board.down(1)
    board.up(1)
    assert board.take() == (1, 33), "nobody ended the first one"
    board.out((0xA1, 0xBF))
    board.up(14)
    assert board.take() == (14, 46)


def test_osdev_remap() -> None:
    """The remap of the OSDev wiki: saves both masks, writes to port 0x80 between words, restores the masks."""
    board = Board((0x21, 0xB8), (0xA1, 0x8E))
    masks = board.read(0x21), board.read(0xA1)
    board.out(*REMAP)
    assert (board.read(0x21), board.read(0xA1)) == (0, 0)
    board.out((0x21, masks[0]), (0xA1, masks[1]))
    assert (board.read(0x21), board.read(0xA1)) == (0xB8, 0x8E)
    board.up(3, 0, 8)
    assert board.take() == (0, 0x20)
    board.out((0x20, EOI))
    assert board.take() == (8, 0x28), "3 is masked"


def test_seabios() -> None:
    """SeaBIOS, pic_setup: vectors 8 and 0x70, all but the cascade masked; a handler ends the slave, then the master."""
    board = Board((0x20, 0x11), (0xA0, 0x11), (0x21, 8), (0xA1, 0x70), (0x21, 4), (0xA1, 2), (0x21, 1), (0xA1, 1))
    board.out((0x21, 0xFB), (0xA1, 0xFF))
    assert not board.pair.can_interrupt
    mask = board.read(0x21) | board.read(0xA1) << 8
    mask &= ~0x0101
    board.out((0x21, mask & 0xFF), (0xA1, mask >> 8))
    board.up(0)
    assert board.take() == (0, 8)
    board.out((0x20, EOI))
    board.up(8)
    assert board.take() == (8, 0x70)
    board.out((0xA0, EOI), (0x20, EOI))
    assert board.in_service == (0, 0)


def test_a_kernel_that_masks_all_for_the_apic() -> None:
    """The xv6 of today and others: mask all, and nothing else ever."""
    board = Board((0x21, 0xFF), (0xA1, 0xFF))
    board.up(*range(16))
    assert not board.intr.level
    assert not board.pair.can_interrupt


def test_a_kernel_that_forgets_to_remap_gets_the_bios_vectors() -> None:
    """IRQ 0 arrives as vector 8, a double fault to the kernel: the chip does just what firmware has left."""
    board = Board((0x20, 0x11), (0xA0, 0x11), (0x21, 8), (0xA1, 0x70), (0x21, 4), (0xA1, 2), (0x21, 1), (0xA1, 1))
    board.up(0)
    assert board.take() == (0, 8)
