//! The virtual machine: two slots, one vCPU, and the loop around it.
#![expect(unsafe_code, reason = "hands memory to KVM, and reads the time-stamp counter")]

use std::arch::x86_64::_rdtsc;
use std::io;
use std::os::fd::AsRawFd;

use anchorite_abi::port;
use anchorite_loader::{Entry, ProtectedMode};
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, Kvm, VcpuExit, VcpuFd, VmFd};
use vmm_sys_util::eventfd::EventFd;

use crate::Failure;
use crate::memory::Memory;
use crate::ports::{After, Ports};

/// The slot that is deleted to make KVM zap everything: one page that no guest uses.
const SPARE_SLOT: u32 = 1;
const SPARE_GPA: u64 = 0xe000_0000;
/// Shadow pages permitted where the guest sets no limit: more than any row needs, while KVM's
/// own default, a fiftieth of the guest's frames, would recycle all the time.
const SHADOW_PAGES: u64 = 60_000;

/// `_IO(KVMIO, 0x44)`, KVM_SET_NR_MMU_PAGES.
const SET_NR_MMU_PAGES: libc::c_ulong = 0xae44;

const CR0_PE_ET: u64 = 0x11;

/// A machine that has not run yet.
pub(crate) struct Machine {
    vm: Vm,
    vcpu: VcpuFd,
    /// Ticks when its making began.
    begun: u64,
}

/// What the guest's commands act on.
#[derive(Debug)]
pub(crate) struct Vm {
    fd: VmFd,
    spare: u64,
    /// Kept open: KVM answers the lightest port by signalling it.
    lightest: EventFd,
}

/// The time-stamp counter: under an emulator that counts instructions, their number.
pub(crate) fn ticks() -> u64 {
    // SAFETY: every x86-64 processor has RDTSC, and Linux lets processes use it.
    unsafe { _rdtsc() }
}

impl Machine {
    pub(crate) fn new(memory: &Memory) -> Result<Self, Failure> {
        let spare = Memory::new(4096)?;
        let lightest = EventFd::new(0)?;
        let kvm = Kvm::new()?;
        let mut cpuid: CpuId = kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?;
        hide_the_apic(&mut cpuid);
        // The first machine of a system switches virtualization on. It stays: its end would go
        // on in the background.
        let first = kvm.create_vm()?;
        std::mem::forget((first.create_vcpu(0)?, first));
        let begun = ticks();
        let vm = Vm { fd: kvm.create_vm()?, spare: spare.mapping().0, lightest };
        vm.set_limit(0)?;
        let (start, bytes) = memory.mapping();
        vm.set_slot(0, 0, start, bytes)?;
        let vcpu = vm.fd.create_vcpu(0)?;
        vcpu.set_cpuid2(&cpuid)?;
        Ok(Self { vm, vcpu, begun })
    }

    /// Runs the guest to its end; its status.
    pub(crate) fn run(mut self, entry: &Entry) -> Result<u32, Failure> {
        let Entry::Protected(entry) = entry else {
            return Err("the guest does not start in 32-bit protected mode".into());
        };
        set_registers(&self.vcpu, entry)?;
        let mut ports = Ports::new(self.begun);
        loop {
            let after = match self.vcpu.run()? {
                VcpuExit::IoOut(port, data) => ports.write(port, data, &self.vm)?,
                VcpuExit::IoIn(port, data) => {
                    Ports::read(port, data);
                    After::GoOn
                }
                VcpuExit::MmioRead(_, data) => {
                    data.fill(0xff);
                    After::GoOn
                }
                VcpuExit::MmioWrite(..) => After::GoOn,
                other => return Err(format!("KVM left the guest for good: {other:?}").into()),
            };
            if let After::End(status) = after {
                return Ok(status);
            }
        }
    }
}

impl Vm {
    /// What only the benchmark needs, once the guest runs: it is no part of making a machine,
    /// and both wait for a grace period of the kernel's.
    pub(crate) fn serve_benchmarks(&self) -> Result<(), Failure> {
        let address = IoEventAddress::Pio(port::BENCH_LIGHTEST.into());
        self.fd.register_ioevent(&self.lightest, &address, kvm_ioctls::NoDatamatch)?;
        self.add_spare()
    }

    /// Deletes the spare slot, which makes KVM zap every shadow page; ticks of the call alone.
    pub(crate) fn zap_all(&self) -> Result<u64, Failure> {
        let before = ticks();
        self.set_slot(SPARE_SLOT, SPARE_GPA, self.spare, 0)?;
        let ticks = ticks() - before;
        self.add_spare()?;
        Ok(ticks)
    }

    /// Limits the shadow pages; 0 lifts the limit.
    pub(crate) fn set_limit(&self, pages: u64) -> Result<(), Failure> {
        let pages = if pages == 0 { SHADOW_PAGES } else { pages };
        // SAFETY: the call takes a number and touches no memory of ours.
        let status = unsafe { libc::ioctl(self.fd.as_raw_fd(), SET_NR_MMU_PAGES as _, pages) };
        if status != 0 {
            return Err(format!("KVM_SET_NR_MMU_PAGES: {}", io::Error::last_os_error()).into());
        }
        Ok(())
    }

    fn add_spare(&self) -> Result<(), Failure> {
        self.set_slot(SPARE_SLOT, SPARE_GPA, self.spare, 4096)
    }

    fn set_slot(&self, slot: u32, gpa: u64, start: u64, bytes: u64) -> Result<(), Failure> {
        let region = kvm_userspace_memory_region {
            slot,
            flags: 0,
            guest_phys_addr: gpa,
            memory_size: bytes,
            userspace_addr: start,
        };
        // SAFETY: the range is a mapping of ours that is never unmapped; no slot overlaps
        // another in guest-physical memory.
        unsafe { self.fd.set_user_memory_region(region)? };
        Ok(())
    }
}

/// Nothing here emulates one.
fn hide_the_apic(cpuid: &mut CpuId) {
    for entry in cpuid.as_mut_slice().iter_mut().filter(|entry| entry.function == 1) {
        entry.ecx &= !(1 << 21 | 1 << 24);
        entry.edx &= !(1 << 9);
    }
}

fn set_registers(vcpu: &VcpuFd, entry: &ProtectedMode) -> Result<(), Failure> {
    let mut system: kvm_sregs = vcpu.get_sregs()?;
    system.cs = flat(entry.code_selector, 0xb);
    let data = flat(entry.data_selector, 0x3);
    (system.ds, system.es, system.ss, system.fs, system.gs) = (data, data, data, data, data);
    system.cr0 = CR0_PE_ET;
    vcpu.set_sregs(&system)?;
    let registers = kvm_regs {
        rax: entry.eax.into(),
        rbx: entry.ebx.into(),
        rsi: entry.esi.into(),
        rip: entry.eip.into(),
        rflags: 2,
        ..kvm_regs::default()
    };
    vcpu.set_regs(&registers)?;
    Ok(())
}

/// A segment over all 4 GiB.
fn flat(selector: u16, kind: u8) -> kvm_segment {
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        db: 1,
        s: 1,
        g: 1,
        ..kvm_segment::default()
    }
}
