use super::*;

/// A machine for tests of command lines and configurations.
pub(super) fn machine() -> Machine {
    Machine {
        cpu: Cpu::Amd,
        on: On::Qemu,
        boot: Boot::Direct,
        icount: false,
        gdb: false,
        interactive: false,
        typed: Vec::new(),
        bare: false,
        cpu_flags: None,
        until: None,
        memory_mib: 128,
        image: Module {
            path: "out/anchorite.elf".into(),
            arguments: "mmu=nested mem=64 --".into(),
        },
        modules: vec![Module { path: "out/guests/hello.elf".into(), arguments: "x=1,2".into() }],
        limit: Duration::from_secs(20),
        scratch: std::env::temp_dir().join(format!("xtask-test-{}", std::process::id())),
    }
}

fn terms(limit: Duration, until: Option<&str>) -> Terms<'_> {
    Terms { limit, until, bare: false, interactive: false, typed: &[] }
}

/// Supervises a shell script in the emulator's place.
fn supervised(script: &str, limit: Duration) -> (Console, Option<ExitStatus>, String) {
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdout(Stdio::piped());
    let mut running = Running::start(&mut command).unwrap();
    let listener = Listener::of_pipe(running.child().stdout.take().unwrap());
    let mut shown = Vec::new();
    let show = |text: &[u8]| shown.extend_from_slice(text);
    let (console, ended) =
        supervise(&mut running, listener, terms(limit, None), None, show).unwrap();
    (console, ended, String::from_utf8(shown).unwrap())
}

#[test]
fn a_run_that_ends_by_itself_keeps_its_last_words_and_its_status() {
    let (console, ended, shown) =
        supervised("echo hello; echo 'verdict: fail status=3'; exit 7", Duration::from_secs(20));
    assert_eq!(console.verdict(), Some(&Verdict::Fail { status: 3 }));
    assert_eq!(ended.unwrap().code(), Some(7));
    assert_eq!(shown, "hello\n");
}

#[test]
fn an_emulator_that_lingers_after_the_verdict_is_killed() {
    let started = Instant::now();
    let (console, ended, _) =
        supervised("echo 'verdict: pass'; sleep 600", Duration::from_secs(60));
    assert!(console.verdict().is_some());
    assert_eq!(ended, None);
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_bare_run_ends_when_the_text_it_waits_for_comes() {
    let terms = terms(Duration::from_secs(60), Some("Pass  1"));
    let mut command = Command::new("sh");
    command.args(["-c", "printf 'x Pass  1 no end'; sleep 600"]).stdout(Stdio::piped());
    let mut running = Running::start(&mut command).unwrap();
    let listener = Listener::of_pipe(running.child().stdout.take().unwrap());
    let (console, _) = supervise(&mut running, listener, terms, None, |_| ()).unwrap();
    assert!(console.has_printed(terms.until));
    assert!(running.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_silent_emulator_is_killed_at_the_limit() {
    let (console, ended, _) = supervised("sleep 600", Duration::from_millis(100));
    assert_eq!(console.verdict(), None);
    assert_eq!(ended, None);
}

#[test]
fn a_growing_file_is_followed_to_its_last_byte() {
    let path = std::env::temp_dir().join(format!("xtask-follow-{}", std::process::id()));
    let listener = Listener::of_file(path.clone());
    fs::write(&path, "first ").unwrap();
    let first = listener.pieces.recv_timeout(Duration::from_secs(20)).unwrap();
    let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"second").unwrap();
    let text = [vec![first], listener.rest()].concat().concat();
    fs::remove_file(&path).unwrap();
    assert_eq!(text, b"first second");
}

#[test]
fn qemu_is_never_asked_for_vmx() {
    let error = choose(Some(Cpu::Intel), Some(On::Qemu)).unwrap_err();
    assert!(error.to_string().contains("QEMU's translator has no VMX"));
}

#[test]
fn the_vendor_picks_the_emulator_and_the_emulator_the_vendor() {
    assert_eq!(choose(None, None).unwrap(), (Cpu::Amd, On::Qemu));
    assert_eq!(choose(Some(Cpu::Intel), None).unwrap(), (Cpu::Intel, On::Bochs));
    assert_eq!(choose(None, Some(On::Bochs)).unwrap(), (Cpu::Intel, On::Bochs));
    assert_eq!(choose(Some(Cpu::Amd), Some(On::Bochs)).unwrap(), (Cpu::Amd, On::Bochs));
}
