//! Control registers and IA32_EFER.
//!
//! The hardware checks privilege before the exit; the values are checked here, with
//! the bits of features that the guest is not shown counted as reserved.
//!
//! Source: SDM vol. 3, 2.5 "Control Registers"; vol. 2, "MOV—Move to/from Control
//! Registers"; APM vol. 2, 3.1 "System Control Registers".

use super::misc::hidden_instruction;
use super::msr::{Refused, general_protection};
use crate::action::{ExitAction, Stop};
use crate::emulate::length::Place;
use crate::emulate::{Intercepted, Operation};
use crate::host::Host;
use crate::machine::Machine;
use crate::translation::Translation;
use anchorite_addr::Gpa;
use anchorite_shadow::{PagingMode, Registers as PagingRegisters};
use anchorite_vcpu::exit::{ControlAccess, ControlExit};
use anchorite_vcpu::{
    ControlRegister, Cr0, Cr4, Efer, Gpr, Rflags, SegmentAttributes, SegmentRegister, Vcpu,
};

/// The CR0 bits that a write changes; the others below bit 32 are ignored.
const CR0_BITS: Cr0 = Cr0::all();
/// The CR0 bits that LMSW writes: PE, MP, EM, TS.
const LMSW_BITS: u64 = 0xf;
/// The CR0 bits whose change makes cached translations wrong.
const CR0_PAGING: Cr0 = Cr0::PG.union(Cr0::WP);
/// The CR4 bits whose change makes cached translations wrong.
const CR4_PAGING: Cr4 = Cr4::PSE
    .union(Cr4::PAE)
    .union(Cr4::PGE)
    .union(Cr4::PCIDE)
    .union(Cr4::LA57)
    .union(Cr4::SMEP)
    .union(Cr4::SMAP)
    .union(Cr4::PKE);

/// The CR0 bits whose change loads the PDPTEs.
/// Source: SDM vol. 3, 4.4.1 "PDPTE Registers".
const CR0_PDPTES: Cr0 = Cr0::PG.union(Cr0::CD).union(Cr0::NW);
/// The CR4 bits whose change loads them.
const CR4_PDPTES: Cr4 = Cr4::PAE.union(Cr4::PGE).union(Cr4::PSE).union(Cr4::SMEP);

/// Bit 63 of a value for CR3 with PCIDs: keep the context's translations. Not stored.
const CR3_NO_FLUSH: u64 = 1 << 63;
/// The bits of CR3 that hold the PCID.
const CR3_PCID: u64 = 0xfff;
/// The bits of CR3 that hold the address of the four PDPTEs.
const PDPT_ADDRESS: u64 = 0xffff_ffe0;
/// Bits of a present PDPTE that must be zero: 1, 2 and 6–8. So must 5, but a processor
/// that walks PDPTEs in memory under nested paging may have set it as A (QEMU 7.2 does);
/// the shadow engine, whose processor never sees them, refuses it.
const PDPTE_RESERVED: u64 = 0x1c6;

impl<B: Vcpu, T: Translation, H: Host> Machine<B, T, H> {
    pub(crate) fn control(&mut self, exit: ControlExit) -> ExitAction {
        if !matches!(exit.number, 0 | 2 | 3 | 4 | 8) {
            return hidden_instruction();
        }
        let (access, length) = match self.complete(exit) {
            Ok(complete) => complete,
            Err(action) => return action,
        };
        let done = match access {
            Complete::Write(from) => {
                let value = self.operand(from);
                self.write_control(exit.number, value)
            }
            Complete::Read(to) => self.read_control(exit.number, to),
            Complete::Clts => {
                let cr0 = self.vcpu.control(ControlRegister::Cr0);
                self.write_cr0(cr0 & !Cr0::TS.bits())
            }
            Complete::Lmsw(source) => self.load_status_word(source),
            Complete::Smsw(Place::Register(to), bytes) => {
                self.store_status_word(to, bytes);
                Ok(())
            }
            Complete::Smsw(Place::Memory(operand), _) => {
                let word = self.vcpu.control(ControlRegister::Cr0) as u16;
                match self.word_operand(&operand, Some(word)) {
                    Ok(_) => Ok(()),
                    Err(action) => return action,
                }
            }
        };
        match done {
            // What the instruction changed may have taken its own bytes away.
            Ok(()) => ExitAction::SkipInstruction(length),
            Err(Refused) => general_protection(),
        }
    }

    /// The access with its operand, and the instruction's length; what the CPU left out
    /// is found by decoding.
    fn complete(&mut self, exit: ControlExit) -> Result<(Complete, u8), ExitAction> {
        let told = match exit.access {
            ControlAccess::Write(Some(from)) => Some(Complete::Write(from)),
            ControlAccess::Read(Some(to)) => Some(Complete::Read(to)),
            ControlAccess::Clts => Some(Complete::Clts),
            ControlAccess::Lmsw(Some(source)) => Some(Complete::Lmsw(source)),
            _ => None,
        };
        if let (Some(access), Some(length)) = (told, self.vcpu.instruction_length()) {
            return Ok((access, length));
        }
        let instruction = match self.known() {
            // The most frequent by far: a kernel switches address spaces.
            Some(&Intercepted { operation: Operation::WriteControl { number, from }, length })
                if number == exit.number =>
            {
                return Ok((Complete::Write(from), length));
            }
            Some(&instruction) => instruction,
            None => self.decode_anew()?,
        };
        let access = match told {
            Some(access) => access,
            None => self.complete_by(instruction.operation, exit.number)?,
        };
        Ok((access, instruction.length))
    }

    fn complete_by(&mut self, operation: Operation, register: u8) -> Result<Complete, ExitAction> {
        match operation {
            Operation::WriteControl { number, from } if number == register => {
                Ok(Complete::Write(from))
            }
            Operation::ReadControl { number, to } if number == register => Ok(Complete::Read(to)),
            Operation::Clts => Ok(Complete::Clts),
            Operation::Smsw(to, bytes) => Ok(Complete::Smsw(to, bytes)),
            Operation::Lmsw(Place::Register(register)) => {
                Ok(Complete::Lmsw(self.vcpu.regs()[register] as u16))
            }
            Operation::Lmsw(Place::Memory(operand)) => {
                self.word_operand(&operand, None).map(Complete::Lmsw)
            }
            _ => Err(ExitAction::Stop(Stop::Emulation {
                what: "no access to a control register",
                gpa: None,
            })),
        }
    }

    fn write_control(&mut self, number: u8, value: u64) -> Result<(), Refused> {
        match number {
            0 => self.write_cr0(value),
            2 => {
                self.vcpu.set_control(ControlRegister::Cr2, value);
                Ok(())
            }
            3 => self.write_cr3(value),
            4 => self.write_cr4(value),
            8 if value < 16 => {
                self.vcpu.set_control(ControlRegister::Cr8, value);
                Ok(())
            }
            _ => Err(Refused),
        }
    }

    fn read_control(&mut self, number: u8, to: Gpr) -> Result<(), Refused> {
        let register = match number {
            0 => ControlRegister::Cr0,
            2 => ControlRegister::Cr2,
            3 => ControlRegister::Cr3,
            4 => ControlRegister::Cr4,
            8 => ControlRegister::Cr8,
            _ => return Err(Refused),
        };
        let value = self.vcpu.control(register);
        // Outside 64-bit mode the registers' upper halves are zero on both sides.
        self.vcpu.regs_mut()[to] = value;
        Ok(())
    }

    /// LMSW can set PE but not clear it.
    fn load_status_word(&mut self, source: u16) -> Result<(), Refused> {
        let cr0 = self.vcpu.control(ControlRegister::Cr0);
        let low = u64::from(source) & LMSW_BITS | cr0 & Cr0::PE.bits();
        self.write_cr0(cr0 & !LMSW_BITS | low)
    }

    /// SMSW to a register: CR0 as wide as the operand.
    fn store_status_word(&mut self, to: Gpr, bytes: u8) {
        let cr0 = self.vcpu.control(ControlRegister::Cr0);
        let kept = if bytes == 2 { self.vcpu.regs()[to] & !0xffff | cr0 & 0xffff } else { cr0 };
        self.vcpu.regs_mut()[to] = kept;
    }

    fn write_cr0(&mut self, value: u64) -> Result<(), Refused> {
        if value >> 32 != 0 {
            return Err(Refused);
        }
        let new = Cr0::from_bits_truncate(value) & CR0_BITS | Cr0::ET;
        let old = Cr0::from_bits_retain(self.vcpu.control(ControlRegister::Cr0));
        self.check_cr0(old, new)?;

        let changed = old ^ new;
        if changed.intersects(CR0_PAGING | CR0_PDPTES) {
            self.paging_changes(changed, new)?;
        }
        self.vcpu.set_control(ControlRegister::Cr0, new.bits());
        if changed.contains(Cr0::CD) {
            self.memory_types_changed();
        }
        Ok(())
    }

    /// A write that changes what is translated, or loads the PDPTEs. Apart from the others, which
    /// are dearer with this among them.
    #[inline(never)]
    fn paging_changes(&mut self, changed: Cr0, new: Cr0) -> Result<(), Refused> {
        let mut registers = self.paging_registers();
        registers.cr0 = anchorite_shadow::Cr0::from_bits_retain(new.bits());
        let loads = changed.intersects(CR0_PDPTES) && registers.mode() == PagingMode::Pae;
        if loads || changed.intersects(CR0_PAGING) {
            self.tell_translation(ControlRegister::Cr0, registers, loads)?;
        }
        Ok(())
    }

    fn check_cr0(&self, old: Cr0, new: Cr0) -> Result<(), Refused> {
        let paging = new.contains(Cr0::PG);
        if (paging && !new.contains(Cr0::PE)) || (new.contains(Cr0::NW) && !new.contains(Cr0::CD)) {
            return Err(Refused);
        }
        if old.contains(Cr0::PG) == paging {
            return Ok(());
        }

        let efer = Efer::from_bits_retain(self.vcpu.control(ControlRegister::Efer));
        let cr4 = Cr4::from_bits_retain(self.vcpu.control(ControlRegister::Cr4));
        let cs = self.vcpu.segment(SegmentRegister::Cs).attributes;
        let long_code = cs.contains(SegmentAttributes::LONG);
        let forbidden = if paging {
            efer.contains(Efer::LME) && (!cr4.contains(Cr4::PAE) || long_code)
        } else {
            (efer.contains(Efer::LMA) && long_code) || cr4.contains(Cr4::PCIDE)
        };
        if forbidden { Err(Refused) } else { Ok(()) }
    }

    /// Every load flushes: to keep translations is permitted, not demanded.
    fn write_cr3(&mut self, value: u64) -> Result<(), Refused> {
        let long = self.vcpu.control(ControlRegister::Efer) & Efer::LMA.bits() != 0;
        let tagged = self.vcpu.control(ControlRegister::Cr4) & Cr4::PCIDE.bits() != 0;
        let value = if tagged { value & !CR3_NO_FLUSH } else { value };
        let width = self.physical_bits;
        if long {
            if value >> width != 0 {
                return Err(Refused);
            }
            self.translation.root_changed(value).map_err(|_| Refused)?;
        } else {
            let registers = PagingRegisters { cr3: value, ..self.paging_registers() };
            let loads = registers.mode() == PagingMode::Pae;
            self.tell_translation(ControlRegister::Cr3, registers, loads)?;
        }
        self.vcpu.set_control(ControlRegister::Cr3, value);
        Ok(())
    }

    fn write_cr4(&mut self, value: u64) -> Result<(), Refused> {
        let new = Cr4::from_bits_retain(value);
        if !self.cr4_bits.contains(new) {
            return Err(Refused);
        }
        let old = Cr4::from_bits_retain(self.vcpu.control(ControlRegister::Cr4));
        self.check_cr4(old, new)?;

        let changed = old ^ new;
        if changed.intersects(CR4_PAGING) {
            let mut registers = self.paging_registers();
            registers.cr4 = anchorite_shadow::Cr4::from_bits_retain(value);
            let loads = changed.intersects(CR4_PDPTES) && registers.mode() == PagingMode::Pae;
            self.tell_translation(ControlRegister::Cr4, registers, loads)?;
        }
        self.vcpu.set_control(ControlRegister::Cr4, value);
        Ok(())
    }

    /// What long mode permits: PAE and LA57 stay as they are in it, PCIDE needs it, and
    /// is set with PCID 0 only.
    fn check_cr4(&self, old: Cr4, new: Cr4) -> Result<(), Refused> {
        let efer = Efer::from_bits_retain(self.vcpu.control(ControlRegister::Efer));
        let long = efer.contains(Efer::LMA);
        let (changed, set) = (old ^ new, new - old);
        let leaves_pae = changed.contains(Cr4::PAE) && old.contains(Cr4::PAE);
        let pcid = self.vcpu.control(ControlRegister::Cr3) & CR3_PCID;
        let forbidden = long && (leaves_pae || changed.contains(Cr4::LA57))
            || set.contains(Cr4::PCIDE) && (!long || pcid != 0);
        if forbidden { Err(Refused) } else { Ok(()) }
    }

    /// XSETBV. The hardware checks CR4.OSXSAVE and the privilege where it can exit.
    pub(crate) fn xsetbv(&mut self) -> ExitAction {
        if self.vcpu.control(ControlRegister::Cr4) & Cr4::OSXSAVE.bits() == 0 {
            return hidden_instruction();
        }
        let registers = self.vcpu.regs();
        let index = registers[Gpr::Rcx] as u32;
        let value = registers[Gpr::Rdx] << 32 | registers[Gpr::Rax] & 0xffff_ffff;
        if self.vcpu.cpl() != 0 || index != 0 || !self.cpuid.layout().accepts(value) {
            return general_protection();
        }
        self.vcpu.set_control(ControlRegister::Xcr0, value);
        self.skip()
    }

    /// WRMSR to EFER. LMA is the hardware's: a value written there is ignored, as
    /// kernels write back what they read.
    pub(super) fn write_efer(&mut self, value: u64) -> Result<(), Refused> {
        let old = Efer::from_bits_retain(self.vcpu.control(ControlRegister::Efer));
        let written = Efer::from_bits_retain(value) - Efer::LMA;
        if !self.efer_bits().contains(written) {
            return Err(Refused);
        }
        let new = written | old & Efer::LMA;
        let paging = self.vcpu.control(ControlRegister::Cr0) & Cr0::PG.bits() != 0;
        if paging && (old ^ new).contains(Efer::LME) {
            return Err(Refused);
        }

        if (old ^ new).intersects(Efer::NXE | Efer::LME) {
            let mut registers = self.paging_registers();
            registers.efer = anchorite_shadow::Efer::from_bits_retain(new.bits());
            self.tell_translation(ControlRegister::Efer, registers, false)?;
        }
        self.vcpu.set_control(ControlRegister::Efer, new.bits());
        Ok(())
    }

    fn efer_bits(&self) -> Efer {
        let long = if self.cpuid.long_mode() { Efer::SCE | Efer::LME } else { Efer::empty() };
        let no_execute = if self.cpuid.no_execute() { Efer::NXE } else { Efer::empty() };
        long | no_execute
    }

    /// Tells of a write to `register`, which `loads` the PDPTEs or leaves them alone.
    fn tell_translation(
        &mut self,
        register: ControlRegister,
        registers: PagingRegisters,
        loads: bool,
    ) -> Result<(), Refused> {
        let pdptes = if loads { Some(self.load_pdptes(&registers)?) } else { None };
        self.translation.registers_changed(Some(register), registers).map_err(|_| Refused)?;
        if let Some(entries) = pdptes {
            self.vcpu.set_pdptes(entries);
        }
        Ok(())
    }

    /// The PDPTEs in memory; refused where one has reserved bits set, or lies where there is
    /// no memory.
    fn load_pdptes(&self, registers: &PagingRegisters) -> Result<[u64; 4], Refused> {
        let reserved = PDPTE_RESERVED | !((1 << self.physical_bits) - 1);
        let table = Gpa::new(registers.cr3 & PDPT_ADDRESS);
        let mut entries = [0; 4];
        for (index, entry) in (0..).zip(&mut entries) {
            *entry = self.memory.load_u64(table.wrapping_add(index * 8)).map_err(|_| Refused)?;
            if *entry & 1 != 0 && *entry & reserved != 0 {
                return Err(Refused);
            }
        }
        Ok(entries)
    }

    /// A general register as MOV to a control register reads it: 32 bits outside
    /// 64-bit mode.
    fn operand(&self, register: Gpr) -> u64 {
        let value = self.vcpu.regs()[register];
        if value >> 32 == 0 || self.vcpu.runs_64_bit_code() { value } else { value & 0xffff_ffff }
    }

    /// PKRU, which is looked at where the guest can have protection keys only.
    pub(crate) fn pkru(&self) -> u32 {
        if self.cr4_bits.contains(Cr4::PKE) { self.vcpu.pkru() } else { 0 }
    }

    /// The alignment-check flag, which suspends SMAP.
    pub(crate) fn alignment_flag(&self) -> bool {
        self.vcpu.regs().rflags & Rflags::AC.bits() != 0
    }
}

/// A [`ControlAccess`] with every operand known.
#[derive(Clone, Copy)]
enum Complete {
    Write(Gpr),
    Read(Gpr),
    Clts,
    Lmsw(u16),
    Smsw(Place, u8),
}
