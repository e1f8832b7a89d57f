use super::*;

/// A host whose TSC ticks once a bit at divisor 1.
fn at(tsc: u64) -> Now {
    Now::new(tsc, BAUD_BASE)
}

/// 8 data bits, no parity, one stop bit at 115,200 baud: a character is ten ticks.
fn fast(fifo_control: u8, interrupts: u8) -> Uart {
    let mut uart = Uart::default();
    for (register, value) in [(3, 0x83), (0, 1), (1, 0), (3, 3), (2, fifo_control), (1, interrupts)]
    {
        uart.write(register, value, at(0));
    }
    uart
}

#[test]
fn bytes_go_out_as_they_are_written() {
    let mut uart = Uart::default();
    uart.write(0, b'A', at(0));
    assert_eq!(uart.read(5, at(0)), 0, "the transmitter is full");
    assert_eq!(uart.transmit(at(0)), Some(b'A'));
    assert_eq!(uart.read(5, at(0)), 0x60);
    assert_eq!(uart.transmit(at(0)), None);
}

#[test]
fn the_divisor_hides_behind_its_latch_bit() {
    let mut uart = fast(0, 0);
    assert_eq!(uart.read(0, at(0)), 0);
    uart.write(3, 0x80, at(0));
    assert_eq!((uart.read(0, at(0)), uart.read(1, at(0))), (1, 0));
}

#[test]
fn a_fifo_below_its_trigger_interrupts_after_four_characters() {
    let mut uart = fast(0x81, 1);
    assert!(uart.receive(b'x', at(100)));
    assert_eq!(uart.deadline(), Some(140));
    uart.advance(at(139));
    assert!(!uart.interrupt());
    uart.advance(at(140));
    assert!(uart.interrupt());
    assert_eq!(uart.deadline(), None);
    assert_eq!(uart.read(2, at(140)), 0xcc);
    assert_eq!(uart.read(0, at(140)), b'x');
    assert!(!uart.interrupt());
}

#[test]
fn a_fifo_at_its_trigger_interrupts_until_it_falls_below() {
    let mut uart = fast(0x41, 1);
    for byte in 0..4 {
        assert!(!uart.interrupt());
        assert!(uart.receive(byte, at(0)));
    }
    assert_eq!(uart.read(2, at(0)), 0xc4);
    uart.read(0, at(0));
    assert_eq!(uart.read(2, at(0)), 0xc1);
}

#[test]
fn host_input_waits_while_the_receiver_is_full() {
    let mut uart = fast(1, 0);
    let taken = (0..20).filter(|&byte| uart.receive(byte, at(0))).count();
    assert_eq!(taken, 16);
    let mut plain = fast(0, 0);
    assert!(plain.receive(1, at(0)) && !plain.receive(2, at(0)));
}

#[test]
fn loopback_returns_bytes_and_modem_outputs() {
    let mut uart = fast(0, 0);
    uart.write(4, 0x1a, at(0));
    assert_eq!(uart.read(6, at(0)) & 0xf0, 0x90, "RTS is CTS, OUT2 is carrier");
    uart.write(0, 0xa5, at(0));
    assert_eq!(uart.transmit(at(0)), None);
    assert_eq!(uart.read(0, at(0)), 0xa5);
    assert!(!uart.receive(0, at(0)), "the wire is cut");
}

#[test]
fn an_overrun_keeps_the_new_byte_without_fifos_and_the_old_ones_with() {
    for (control, kept) in [(0, 16), (1, 0)] {
        let mut uart = fast(control, 4);
        uart.write(4, 0x10, at(0));
        for byte in 0..17 {
            uart.write(0, byte, at(0));
            uart.transmit(at(0));
        }
        assert_eq!(uart.read(2, at(0)) & 0x0f, 0x06);
        assert_eq!(uart.read(5, at(0)), 0x63);
        assert_eq!(uart.read(5, at(0)), 0x61, "reading it clears the overrun");
        assert_eq!(uart.read(0, at(0)), kept);
    }
}

#[test]
fn enabling_the_transmitter_interrupt_while_empty_raises_it() {
    let mut uart = fast(0, 2);
    assert!(uart.interrupt());
    assert_eq!(uart.read(2, at(0)), 2);
    assert_eq!(uart.read(2, at(0)), 1);
    uart.write(1, 2, at(0));
    assert!(!uart.interrupt(), "it was enabled already");
}
