//! The one place that knows the vendor.

use crate::failure::Failure;
use crate::{fail, guest, report};
use anchorite_abi::hypercall::WINDOW_BYTES;
use anchorite_abi::{Options, text};
use anchorite_addr::PAGE_BYTES;
use anchorite_platform::boot::Boot;
use anchorite_platform::clock;
use anchorite_platform::cpu::{self, Extension};
use anchorite_platform::host::HermitHost;
use anchorite_platform::memory::{Frames, GuestRam, Memory, ShadowMachine};
use anchorite_shadow::AnyMmu;
use anchorite_svm::{Npt, SvmCpu, SvmVcpu};
use anchorite_vcpu::{Capabilities, NestedFormat, Unavailable, Vcpu};
use anchorite_vmm::cpuid::Cpuid;
use anchorite_vmm::machine::{Config, Machine, Window};
use anchorite_vmm::translation::{Combined, Nested, Translation};
use anchorite_vmm::until::Until;
use anchorite_vmx::{Ept, VmxCpu, VmxVcpu};

/// Runs the guest on the extension that this CPU has.
pub(crate) fn run_guest(
    options: &Options<'_>,
    mut memory: Memory,
    boot: &Boot,
    mut host: HermitHost,
) -> u8 {
    let begun = clock::now();
    match cpu::extension() {
        Some(Extension::Svm) => match svm(&mut memory.frames) {
            Ok(vcpu) => run_on::<_, Npt>(vcpu, options, memory, (boot, begun), host),
            Err(error) => fail(&mut host, &error.into()),
        },
        Some(Extension::Vmx) => match vmx(&mut memory.frames) {
            Ok(vcpu) => run_on::<_, Ept>(vcpu, options, memory, (boot, begun), host),
            Err(error) => fail(&mut host, &error.into()),
        },
        None => fail(&mut host, &Failure::NoExtension),
    }
}

fn svm(frames: &mut Frames) -> Result<SvmVcpu, Unavailable> {
    cpu::enable(SvmCpu::enable, frames)?.vcpu(frames)
}

fn vmx(frames: &mut Frames) -> Result<VmxVcpu, Unavailable> {
    cpu::enable(VmxCpu::enable, frames)?.vcpu(frames)
}

/// From here on nothing asks for the vendor.
fn run_on<B: Vcpu, F: NestedFormat>(
    vcpu: B,
    options: &Options<'_>,
    memory: Memory,
    started: (&Boot, u64),
    mut host: HermitHost,
) -> u8 {
    let Memory { guest, shadow, frames } = memory;
    let cpuid = match guest::cpuid(options, vcpu.capabilities(), &host) {
        Ok(cpuid) => cpuid,
        Err(error) => return fail(&mut host, &error),
    };
    match translation::<F>(frames, shadow, vcpu.capabilities(), options, &cpuid, &host) {
        Ok(translation) => run_with(vcpu, translation, cpuid, options, &guest, started, host),
        Err(error) => fail(&mut host, &error),
    }
}

/// Nested tables, shadow tables, or both where shadow tables do not serve every guest.
fn translation<'a, F: NestedFormat>(
    frames: Frames,
    shadow: Option<ShadowMachine>,
    cpu: &Capabilities,
    options: &Options<'a>,
    cpuid: &Cpuid,
    host: &HermitHost,
) -> Result<Combined<F, Frames, AnyMmu<ShadowMachine>>, Failure<'a>> {
    let nested = || Nested::<F, _>::new(frames, cpu.nested_1g_pages);
    let Some(memory) = shadow else { return Ok(Combined::nested(nested()?)) };
    let shadow = guest::shadow(memory, options, cpuid, host)?;
    Ok(if cpu.shadow_unpaged || !cpu.unrestricted_guest {
        Combined::shadow(shadow)
    } else {
        Combined::both(shadow, nested()?)
    })
}

fn run_with<B: Vcpu, T: Translation>(
    vcpu: B,
    translation: T,
    cpuid: Cpuid,
    options: &Options<'_>,
    ram: &GuestRam,
    (boot, begun): (&Boot, u64),
    host: HermitHost,
) -> u8 {
    let config = Config {
        limit_seconds: options.timeout_s,
        reset_passes: options.reset_passes,
        triple_fault_passes: options.triple_fault_passes,
        zaps_per_second: options.zap_rate,
        window: Some(Window { host: ram.window().frame(), frames: WINDOW_BYTES / PAGE_BYTES }),
        devices: guest::devices(options, ram),
    };
    let mut machine = Machine::new(vcpu, translation, ram.clone(), host, cpuid, config);
    machine.account_creation(clock::now().wrapping_sub(begun));
    machine.tell_benchmarks(options.json);
    let capabilities = *machine.vcpu().capabilities();
    report::greet(machine.host().console(), options, &capabilities);
    if let Err(failure) = guest::load(&mut machine, ram, options) {
        return fail(machine.host(), &failure);
    }
    if let Some(text) = options.until {
        machine.stop_at(Until::new(text::decoded(text)));
    }
    let boot_ticks = clock::now().wrapping_sub(boot.entry_tsc);
    let outcome = machine.run();
    report::end(&mut machine, &outcome, options, boot_ticks)
}
