//! Reads the sources: how long functions and files are, and who opts in to `unsafe`.

use std::path::Path;

use proc_macro2::Span;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, Block, ImplItemFn, ItemFn, ItemMod, Meta, Safety, Signature, TraitItemFn};

use super::sources::{self, is_test};
use super::verdict;
use crate::error::Result;
use crate::workspace::{Metadata, Package};

/// Lines of a function, tests aside.
const FUNCTION_LIMIT: usize = 70;

/// Lines of a file, tests aside.
const FILE_LIMIT: usize = 500;

/// Who may opt in to `unsafe`; every other crate forbids it.
const UNSAFE: [&str; 8] = [
    "anchorite-platform",
    "anchorite-image",
    "anchorite-cpu",
    "anchorite-vmx",
    "anchorite-svm",
    "anchorite-guests",
    "anchorite-hermit-guests",
    "anchorite-peer-kvm",
];

/// What was seen of one crate.
#[derive(Debug, Default)]
struct Survey {
    functions: Vec<usize>,
    files: Vec<usize>,
    unsafe_sites: usize,
    faults: Vec<String>,
}

/// Surveys every member and prints a line for each.
pub(super) fn check(members: &Metadata) -> Result<()> {
    println!("  {:<20} files functions  median  p95  max  longest file  unsafe", "crate");
    let mut faults = Vec::new();
    for package in members.packages() {
        let mut survey = surveyed(package)?;
        println!("  {}", survey.row(package.name()));
        faults.append(&mut survey.faults);
    }
    verdict(&faults)
}

fn surveyed(package: Package<'_>) -> Result<Survey> {
    let mut survey = Survey::default();
    let may_be_unsafe = UNSAFE.contains(&package.name());
    let folder = package.folder().join("src");
    for source in sources::below(&folder)? {
        let shown = shown(&source.path);
        survey.add(&shown, &source.text, &source.file);
        survey.judge_unsafe(&shown, &source.file, may_be_unsafe, source.is_root());
    }
    Ok(survey)
}

/// Relative to the checkout, where xtask works.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}

impl Survey {
    fn add(&mut self, path: &str, text: &str, file: &syn::File) {
        let mut reader = Reader::default();
        reader.visit_file(file);
        for (name, line, length) in reader.functions {
            if length > FUNCTION_LIMIT {
                self.faults.push(format!("{path}:{line}: {name} has {length} lines"));
            }
            self.functions.push(length);
        }
        let length = text.lines().count().saturating_sub(reader.test_lines);
        if length > FILE_LIMIT {
            self.faults.push(format!("{path}: {length} lines without its tests"));
        }
        self.files.push(length);
        self.unsafe_sites += reader.unsafe_sites;
    }

    /// A crate that may not be unsafe says so at its root; one that may gives a reason in every
    /// file that is. (The compiler refuses what is neither, clippy a block without SAFETY.)
    fn judge_unsafe(&mut self, path: &str, file: &syn::File, may: bool, is_root: bool) {
        let forbids = file.attrs.iter().any(|attribute| lists(attribute, "forbid"));
        if !may && is_root && !forbids {
            self.faults.push(format!("{path}: lacks #![forbid(unsafe_code)]"));
        }
        let mut opt_ins = OptIns::default();
        opt_ins.visit_file(file);
        for (line, attribute) in opt_ins.found {
            if !may {
                self.faults.push(format!("{path}:{line}: opts in to unsafe; this crate may not"));
            } else if !attribute {
                self.faults.push(format!("{path}:{line}: opt in by expect(unsafe_code, reason)"));
            }
        }
    }

    fn row(&mut self, name: &str) -> String {
        self.functions.sort_unstable();
        let at = |share: usize| {
            let last = self.functions.len().saturating_sub(1);
            self.functions.get(last * share / 100).copied().unwrap_or(0)
        };
        let (files, functions) = (self.files.len(), self.functions.len());
        let longest = self.files.iter().max().copied().unwrap_or(0);
        format!(
            "{name:<20} {files:>5} {functions:>9} {:>7} {:>4} {:>4} {longest:>13} {:>7}",
            at(50),
            at(95),
            at(100),
            self.unsafe_sites
        )
    }
}

/// Is this `#![level(unsafe_code, …)]`?
fn lists(attribute: &Attribute, level: &str) -> bool {
    let Meta::List(list) = &attribute.meta else {
        return false;
    };
    list.path.is_ident(level) && list.tokens.to_string().contains("unsafe_code")
}

fn lines(span: Span) -> usize {
    span.end().line + 1 - span.start().line
}

/// Collects functions, unsafe sites and inline tests of one file.
#[derive(Default)]
struct Reader {
    /// Name, line and length, from the signature to the closing brace.
    functions: Vec<(String, usize, usize)>,
    unsafe_sites: usize,
    test_lines: usize,
}

impl Reader {
    fn function(&mut self, signature: &Signature, block: &Block) {
        let (start, end) = (signature.span().start().line, block.span().end().line);
        self.functions.push((signature.ident.to_string(), start, end + 1 - start));
        self.unsafe_sites += usize::from(matches!(signature.safety, Safety::Unsafe(_)));
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if is_test(&module.attrs) {
            self.test_lines += lines(module.span());
        } else {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_fn(&mut self, function: &'ast ItemFn) {
        if is_test(&function.attrs) {
            self.test_lines += lines(function.span());
            return;
        }
        self.function(&function.sig, &function.block);
        visit::visit_item_fn(self, function);
    }

    fn visit_impl_item_fn(&mut self, function: &'ast ImplItemFn) {
        self.function(&function.sig, &function.block);
        visit::visit_impl_item_fn(self, function);
    }

    fn visit_trait_item_fn(&mut self, function: &'ast TraitItemFn) {
        if let Some(block) = &function.default {
            self.function(&function.sig, block);
        }
        visit::visit_trait_item_fn(self, function);
    }

    fn visit_expr_unsafe(&mut self, expression: &'ast syn::ExprUnsafe) {
        self.unsafe_sites += 1;
        visit::visit_expr_unsafe(self, expression);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.unsafe_sites += usize::from(item.unsafety.is_some());
        visit::visit_item_impl(self, item);
    }
}

/// Collects the attributes that open `unsafe_code`: their line, and whether each is an `expect`
/// with a reason.
#[derive(Default)]
struct OptIns {
    found: Vec<(usize, bool)>,
}

impl<'ast> Visit<'ast> for OptIns {
    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let (expect, allow) = (lists(attribute, "expect"), lists(attribute, "allow"));
        if expect || allow {
            let reasoned = matches!(&attribute.meta, Meta::List(list) if list.tokens.to_string().contains("reason ="));
            self.found.push((attribute.span().start().line, expect && reasoned));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str, may_be_unsafe: bool) -> Vec<String> {
        let file = syn::parse_file(text).unwrap();
        let mut survey = Survey::default();
        survey.add("lib.rs", text, &file);
        survey.judge_unsafe("lib.rs", &file, may_be_unsafe, true);
        survey.faults
    }

    fn function_of(lines: usize) -> String {
        format!("fn long() {{\n{}}}\n", "    call();\n".repeat(lines - 2))
    }

    #[test]
    fn a_function_may_have_70_lines_and_no_more() {
        assert_eq!(faults(&function_of(70), true), [""; 0]);
        assert_eq!(faults(&function_of(71), true), ["lib.rs:1: long has 71 lines"]);
    }

    #[test]
    fn documentation_does_not_lengthen_a_function() {
        let text = "/// Line.\n".repeat(80) + &function_of(3);
        assert_eq!(faults(&text, true), [""; 0]);
    }

    #[test]
    fn a_file_may_have_500_lines_besides_its_tests() {
        let tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", "\n".repeat(600));
        assert_eq!(faults(&("\n".repeat(500) + &tests), true), [""; 0]);
        assert_eq!(faults(&("\n".repeat(501) + &tests), true).len(), 1);
    }

    #[test]
    fn a_crate_without_unsafe_says_so() {
        assert_eq!(faults("fn f() {}", false).len(), 1);
        assert_eq!(faults("#![forbid(unsafe_code)]\nfn f() {}", false), [""; 0]);
    }

    #[test]
    fn only_the_crates_on_the_list_opt_in_and_only_with_a_reason() {
        let reasoned = "#![expect(unsafe_code, reason = \"x\")]";
        assert_eq!(faults(reasoned, true), [""; 0]);
        assert_eq!(faults("#![expect(unsafe_code)]", true).len(), 1);
        assert_eq!(faults("#[allow(unsafe_code, reason = \"x\")]\nfn f() {}", true).len(), 1);
        assert_eq!(faults(&format!("#![forbid(unsafe_code)]\n{reasoned}"), false).len(), 1);
    }

    #[test]
    fn unsafe_sites_are_counted() {
        let file = syn::parse_file("unsafe fn f() { unsafe { g() } }").unwrap();
        let mut reader = Reader::default();
        reader.visit_file(&file);
        assert_eq!(reader.unsafe_sites, 2);
    }
}
