//! x2APIC mode: the registers as MSRs, each checked, with identifiers of 32 bits.
//!
//! Source: SDM vol. 3, 10.12 "Extended xAPIC (x2APIC)".

use super::{
    DIVISOR_BITS, ENTRIES, ENTRY_BITS, FIRST_LEGAL_VECTOR, ID, LocalApic, Request, SENT_ILLEGAL,
    register,
};
use crate::devices::Now;
use anchorite_vcpu::Vector;

/// The register for IPIs to oneself, which exists in this mode alone.
const SELF_IPI: u8 = 0x3f;
/// The logical identifier that goes with [`ID`]: cluster 0, its first processor.
const LOGICAL_ID: u32 = 1;
/// The destination of an IPI to everybody.
const BROADCAST: u32 = u32::MAX;
/// ICR: the bits of the lower half that there are; the delivery status is not among them.
const COMMAND_BITS: u32 = 0xc_cfff;
/// SVR: bit 9, which older processors have, is taken and has no effect.
const SPURIOUS_BITS: u32 = 0x3ff;
/// LVT: delivery status and remote IRR, which are ignored in a write.
const ENTRY_STATUS: u32 = 1 << 12 | 1 << 14;

impl LocalApic {
    /// Enters or leaves x2APIC mode. Registers keep their values but for those that look
    /// otherwise here.
    pub(in crate::devices) const fn set_extended(&mut self, extended: bool) {
        self.extended = extended;
        self.command = (0, 0);
    }

    /// RDMSR of 0x800 + `number`; `None` where that faults.
    pub(in crate::devices) fn read_msr(&self, number: u8, now: Now) -> Option<u64> {
        match number {
            register::ID => Some(ID.into()),
            register::LDR => Some(LOGICAL_ID.into()),
            register::ICR_LOW => Some(u64::from(self.command.1) << 32 | u64::from(self.command.0)),
            register::VERSION
            | register::TPR
            | register::PPR
            | register::SVR
            | register::ISR..=register::ESR
            | register::LVT_TIMER..=register::CURRENT_COUNT
            | register::DIVIDE => Some(self.read(number, now).into()),
            _ => None,
        }
    }

    /// WRMSR of `value` to 0x800 + `number`; `None` where that faults.
    pub(in crate::devices) fn write_msr(
        &mut self,
        number: u8,
        value: u64,
        now: Now,
    ) -> Option<Request> {
        if number == register::ICR_LOW {
            return self.command(value);
        }
        let value = u32::try_from(value).ok()?;
        let bits = match number {
            register::TPR | SELF_IPI => 0xff,
            register::EOI | register::ESR => 0,
            register::SVR => SPURIOUS_BITS,
            register::LVT_TIMER..=register::LVT_ERROR => {
                entry_bits(usize::from(number - register::LVT_TIMER)) | ENTRY_STATUS
            }
            register::INITIAL_COUNT => u32::MAX,
            register::DIVIDE => DIVISOR_BITS,
            _ => return None,
        };
        if value & !bits != 0 {
            return None;
        }
        if number == SELF_IPI {
            return Some(self.send_to_self(Vector(value as u8)));
        }
        Some(self.write(number, value, now))
    }

    /// One write sends: the destination is in the upper half.
    fn command(&mut self, value: u64) -> Option<Request> {
        let (low, high) = (value as u32, (value >> 32) as u32);
        if low & !COMMAND_BITS != 0 {
            return None;
        }
        self.command = (low, high);
        Some(self.send())
    }

    fn send_to_self(&mut self, vector: Vector) -> Request {
        if vector.0 < FIRST_LEGAL_VECTOR {
            self.error(SENT_ILLEGAL);
        } else {
            self.accept(vector, false);
        }
        Request::Nothing
    }

    /// Whether an IPI to `destination` is for this processor.
    pub(super) const fn is_addressed_extended(destination: u32, logical: bool) -> bool {
        if destination == BROADCAST {
            return true;
        }
        // The upper half names the cluster, the lower half processors in it.
        let mine = destination >> 16 == LOGICAL_ID >> 16 && destination & LOGICAL_ID != 0;
        if logical { mine } else { destination == ID as u32 }
    }
}

const fn entry_bits(index: usize) -> u32 {
    if index < ENTRIES { ENTRY_BITS[index] } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::num::NonZeroU64;

    const NOW: Now = Now::new(0, NonZeroU64::new(1_000_000_000).unwrap());
    /// ISR, TMR and IRR.
    const BITMAPS: core::ops::RangeInclusive<u8> = 0x10..=0x27;

    fn extended() -> LocalApic {
        let mut apic = LocalApic::default();
        apic.set_extended(true);
        apic
    }

    fn is_read_only(number: u8) -> bool {
        matches!(number, 0x02 | 0x03 | 0x0a | 0x0d | 0x39) || BITMAPS.contains(&number)
    }

    #[test]
    fn the_registers_of_the_manuals_table_exist_and_no_others() {
        for number in 0..=u8::MAX {
            let both = matches!(number, 0x08 | 0x0f | 0x28 | 0x30 | 0x32..=0x38 | 0x3e);
            let write_only = matches!(number, 0x0b | 0x3f);
            let readable = extended().read_msr(number, NOW).is_some();
            assert_eq!(readable, both || is_read_only(number), "reading {number:#x}");
            let value = if number == 0x3f { 0x40 } else { 0 };
            let writable = extended().write_msr(number, value, NOW).is_some();
            assert_eq!(writable, both || write_only, "writing {number:#x}");
        }
    }

    #[test]
    fn reserved_bits_fault_and_change_nothing() {
        let cases: [(u8, u64); 13] = [
            (register::TPR, 0x100),
            (register::EOI, 1),
            (register::SVR, 0x400),
            (register::ESR, 1),
            (register::ICR_LOW, 0x1000),
            (register::ICR_LOW, 0x10_0000),
            (register::LVT_TIMER, 0x4_0000),
            (0x33, 0x800),
            (register::LVT_ERROR, 0x400),
            (register::INITIAL_COUNT, 1 << 32),
            (register::DIVIDE, 4),
            (SELF_IPI, 0x100),
            (register::SVR, 1 << 40),
        ];
        for (number, value) in cases {
            let mut apic = extended();
            let before = apic.read_msr(number, NOW);
            assert_eq!(apic.write_msr(number, value, NOW), None, "{number:#x} {value:#x}");
            assert_eq!(apic.read_msr(number, NOW), before);
        }
    }

    #[test]
    fn a_command_is_sent_by_one_write_to_whom_it_names() {
        let sent = |value: u64| {
            let mut apic = extended();
            let asked = apic.write_msr(register::ICR_LOW, value, NOW);
            assert_eq!(asked, Some(Request::Nothing));
            assert_eq!(apic.read_msr(register::ICR_LOW, NOW), Some(value));
            apic.request()
        };
        assert_eq!(sent(0x40), Some(Vector(0x40)), "to identifier 0");
        assert_eq!(sent(0x41 | 0xffff_ffff << 32), Some(Vector(0x41)), "to all");
        assert_eq!(sent(0x42 | 0xff << 32), None, "255 is one processor here");
        assert_eq!(sent(0x843 | 1 << 32), Some(Vector(0x43)), "logically");
        assert_eq!(sent(0x844 | 0x1_0001 << 32), None, "in another cluster");
        assert_eq!(sent(0x4_0045 | 7 << 32), Some(Vector(0x45)), "to oneself");
        assert_eq!(sent(0xc_0046), None, "to all but oneself");
    }

    #[test]
    fn an_interrupt_to_oneself_is_one_write() {
        let mut apic = extended();
        assert_eq!(apic.write_msr(SELF_IPI, 0x61, NOW), Some(Request::Nothing));
        assert_eq!(apic.acknowledge(), Some(Vector(0x61)));
        assert_eq!(apic.read_msr(0x13, NOW), Some(2), "in service");
        assert_eq!(apic.write_msr(register::EOI, 0, NOW), Some(Request::Nothing));
        assert_eq!(apic.read_msr(0x13, NOW), Some(0));
        assert_eq!(apic.write_msr(SELF_IPI, 3, NOW), Some(Request::Nothing));
        assert_eq!(apic.write_msr(register::ESR, 0, NOW), Some(Request::Nothing));
        assert_eq!(apic.read_msr(register::ESR, NOW), Some(SENT_ILLEGAL.into()));
    }

    #[test]
    fn messages_of_the_io_apic_have_eight_bits_of_destination_still() {
        let apic = extended();
        assert!(apic.is_addressed(0, false) && apic.is_addressed(0xff, false));
        assert!(!apic.is_addressed(1, false));
        assert!(apic.is_addressed(1, true) && apic.is_addressed(0xff, true));
        assert!(!apic.is_addressed(2, true));
    }
}
