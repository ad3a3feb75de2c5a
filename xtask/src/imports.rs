//! Imports in the crates that run in the VM go one way.
//!
//! The order of the `mod` lines in a folder's `mod.rs` (in `lib.rs` for a crate) is the order of its modules: each may
//! import what stands before it. So there is no circle, and a newcomer can read a crate from top to bottom. (rustfmt does
//! not sort `mod` lines here: `reorder_modules = false`.) Refused are
//!
//! * an import of a module that stands later,
//! * a circle of files, which two files of one parent can also close by way of their `mod.rs`,
//! * an import that reaches a module through a `use` of the importer's own parent,
//! * `foo.rs` beside `foo/`: a module with children is `foo/mod.rs`.
//!
//! Test code may import what it likes. The check reads tokens, not types: it follows `use`, paths in expressions and
//! re-exports, but neither macros that put paths together nor paths in strings.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, anyhow, ensure};
use bluegreen_programs::Checkout;
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// The crates that are checked, by the folder of their `lib.rs`.
const CRATES: [&str; 2] = ["core/src", "src"];

/// A path that only leads through more `use` lines than this leads in a circle.
const MOST_USES: usize = 16;

/// A crate's files, by their paths with `/` from the repository's root.
type Files = BTreeMap<String, Vec<Token>>;

struct Token {
    /// A word, one sign, or the bracket that opens a group.
    text: String,
    line: usize,
    /// What stands in the brackets.
    inside: Vec<Token>,
}

/// A crate's modules, by paths such as `crate::etcd::follower`. What stands in a `mod` with braces belongs to the file.
struct Crate(BTreeMap<String, Module>);

#[derive(Default)]
struct Module {
    file: String,
    /// In the order of the `mod` lines.
    children: Vec<String>,
    uses: Vec<Use>,
    /// Paths outside of `use`, with their lines.
    mentions: Vec<(Vec<String>, usize)>,
}

/// One name that a `use` brings in; that of a glob is `*`.
struct Use {
    path: Vec<String>,
    name: String,
    is_public: bool,
    line: usize,
}

/// That a module imports something that another one defines.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Import {
    from: String,
    line: usize,
    to: String,
    /// The module above the importer whose `use` the import goes through.
    through: Option<String>,
}

/// Shows what is wrong in the crates' imports.
///
/// # Errors
/// Something is, or a file cannot be read.
pub fn check(checkout: &Checkout) -> Result<()> {
    let mut refusals = Vec::new();
    for folder in CRATES {
        let mut files = Files::new();
        read_folder(checkout.root(), folder, &mut files)?;
        refusals.append(&mut refusals_in(folder, &files));
    }
    ensure!(refusals.is_empty(), "imports or files are not where they belong:\n{}", refusals.join("\n"));
    Ok(())
}

fn read_folder(root: &Path, folder: &str, files: &mut Files) -> Result<()> {
    for entry in fs::read_dir(root.join(folder)).with_context(|| format!("cannot list {folder}"))? {
        let path = format!("{folder}/{}", entry?.file_name().to_string_lossy());
        if root.join(&path).is_dir() {
            read_folder(root, &path, files)?;
        } else if path.ends_with(".rs") {
            let text = fs::read_to_string(root.join(&path)).with_context(|| format!("cannot read {path}"))?;
            let stream: TokenStream =
                text.parse().map_err(|error| anyhow!("{path} cannot be read as Rust: {error}"))?;
            files.insert(path, tokens(stream));
        }
    }
    Ok(())
}

fn tokens(stream: TokenStream) -> Vec<Token> {
    let token = |tree: TokenTree| {
        let line = tree.span().start().line;
        let (text, inside) = match tree {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => ("{".to_owned(), group.stream()),
            TokenTree::Group(group) if group.delimiter() == Delimiter::Bracket => ("[".to_owned(), group.stream()),
            TokenTree::Group(group) => ("(".to_owned(), group.stream()),
            TokenTree::Literal(_) => ("\"".to_owned(), TokenStream::new()),
            other => (other.to_string().trim_start_matches("r#").to_owned(), TokenStream::new()),
        };
        Token { text, line, inside: tokens(inside) }
    };
    stream.into_iter().map(token).collect()
}

/// What is wrong in the crate whose `lib.rs` is in `folder`, and what to do about it.
fn refusals_in(folder: &str, files: &Files) -> Vec<String> {
    let mut refusals = Vec::new();
    for module in files.keys().filter_map(|file| file.strip_suffix(".rs")) {
        if files.keys().any(|other| other.starts_with(&format!("{module}/"))) {
            refusals.push(format!("{module}.rs: its children are in {module}/: move it to {module}/mod.rs"));
        }
    }
    let modules = Crate::read(folder, files);
    let told = |import: &Import| {
        format!("{}:{}: imports {}", modules.file(&import.from), import.line, modules.file(&import.to))
    };
    let mut imports = modules.imports();
    // One report for each pair of files, at the first line.
    let mut reported = BTreeSet::new();
    imports.retain(|one| reported.insert((one.from.clone(), one.to.clone(), one.through.clone())));
    for import in &imports {
        let told = told(import);
        if !is_below(&import.to, &import.from) && modules.place(&import.to) > modules.place(&import.from) {
            refusals.push(format!(
                "{told}, which stands later in the order of the `mod` lines: move what both need into a module before both, \
                 or change the order of the lines"
            ));
        }
        if let Some(parent) = &import.through {
            let parent = modules.file(parent);
            refusals.push(format!("{told} by a `use` in its parent {parent}: name the module that defines it"));
        }
    }
    // An import that begins or ends a chain is not part of a circle.
    loop {
        let ends: (BTreeSet<_>, BTreeSet<_>) = imports.iter().map(|one| (one.from.clone(), one.to.clone())).unzip();
        let before = imports.len();
        imports.retain(|import| ends.0.contains(&import.to) && ends.1.contains(&import.from));
        if imports.len() == before {
            break;
        }
    }
    if !imports.is_empty() {
        let circle = imports.iter().map(told).collect::<Vec<_>>().join("\n  ");
        refusals.push(format!(
            "files import each other in a circle: move what two of them need into a module before them\n  {circle}"
        ));
    }
    refusals
}

// === impl Crate ===

impl Crate {
    fn read(folder: &str, files: &Files) -> Self {
        let mut modules = BTreeMap::new();
        for (file, tokens) in files {
            let path = file
                .strip_prefix(folder)
                .unwrap_or(file)
                .trim_end_matches(".rs")
                .trim_end_matches("/mod")
                .replace('/', "::");
            let mut module = Module { file: file.clone(), ..Module::default() };
            module.scan(tokens);
            modules.insert(if path == "::lib" { "crate".to_owned() } else { format!("crate{path}") }, module);
        }
        Self(modules)
    }

    fn file<'a>(&'a self, module: &'a str) -> &'a str {
        self.0.get(module).map_or(module, |module| module.file.as_str())
    }

    /// Which of the `mod` lines leads to the module, in each folder on the way. None: only tests have it.
    fn place(&self, module: &str) -> Option<Vec<usize>> {
        let Some((parent, name)) = module.rsplit_once("::") else { return Some(Vec::new()) };
        let mut place = self.place(parent)?;
        place.push(self.0.get(parent)?.children.iter().position(|child| child == name)?);
        Some(place)
    }

    /// What each module imports from other files, in the order of the files.
    fn imports(&self) -> Vec<Import> {
        let mut imports = Vec::new();
        for (from, module) in self.0.iter().filter(|(path, _)| self.place(path).is_some()) {
            // A re-export of what is below is not yet a use of it, but a mention of what it brings in is.
            let leads_below = |one: &Use| self.resolve(from, &one.path, 0).is_some_and(|(to, _)| is_below(&to, from));
            let uses = module.uses.iter().filter(|one| !(one.is_public && leads_below(one)));
            let uses = uses.map(|one| (&one.path, one.line));
            for (path, line) in uses.chain(module.mentions.iter().map(|(path, line)| (path, *line))) {
                if let Some((to, through)) = self.resolve(from, path, 0).filter(|(to, _)| to != from) {
                    let through = through.filter(|at| *at != to && is_below(from, at));
                    imports.push(Import { from: from.clone(), line, to, through });
                }
            }
        }
        imports.sort();
        imports
    }

    /// The module that a path leads to, and the one whose `use` it goes through. None: another crate, or a name in scope.
    fn resolve(&self, from: &str, path: &[String], uses: usize) -> Option<(String, Option<String>)> {
        let used = |at: &str, name: &str| self.0.get(at)?.uses.iter().find(|one| one.name == name);
        let child = |at: &str, name: &str| Some(format!("{at}::{name}")).filter(|child| self.0.contains_key(child));
        let (mut at, rest) = match path.first()?.as_str() {
            "crate" => ("crate".to_owned(), &path[1..]),
            "self" | "super" => (from.to_owned(), path),
            first if path.len() > 1 && child(from, first).is_some() || used(from, first).is_some() => {
                (from.to_owned(), path)
            }
            _ => return None,
        };
        for (place, segment) in rest.iter().enumerate() {
            if segment == "super" {
                at = at.rsplit_once("::")?.0.to_owned();
            } else if let Some(child) = child(&at, segment) {
                at = child;
            } else if let Some(one) = used(&at, segment).filter(|_| uses < MOST_USES) {
                let longer = [&one.path, &rest[place + 1..]].concat();
                let (to, through) = self.resolve(&at, &longer, uses + 1).unwrap_or((at.clone(), None));
                return Some((to, Some(at).filter(|at| at != from).or(through)));
            } else if segment != "self" {
                break;
            }
        }
        Some((at, None))
    }
}

fn is_below(module: &str, other: &str) -> bool {
    module.strip_prefix(other).is_some_and(|rest| rest.starts_with("::"))
}

// === impl Module ===

impl Module {
    fn scan(&mut self, tokens: &[Token]) {
        let text = |place: usize| tokens.get(place).map_or("", |token| token.text.as_str());
        let mut next = 0;
        while let Some(token) = tokens.get(next) {
            let before = text(next.wrapping_sub(1));
            next += 1;
            match token.text.as_str() {
                "#" => {
                    next += usize::from(text(next) == "!") + 1;
                    if tokens.get(next - 1).is_some_and(is_test_code) {
                        // The item goes to a `;` or to the end of its braces.
                        let end = tokens[next..].iter().position(|token| matches!(token.text.as_str(), ";" | "{"));
                        next = end.map_or(tokens.len(), |end| next + end + 1);
                    }
                }
                "mod" if text(next + 1) == ";" => self.children.push(text(next).to_owned()),
                // `use<'a>` lists what a type captures.
                "use" if text(next) != "<" => {
                    let tree = tokens[next..].split(|token| token.text == ";").next().unwrap_or_default();
                    // A bracket here is that of `pub(crate)`.
                    take_uses(&[], tree, before == "pub" || before == "(", &mut self.uses);
                    next += tree.len();
                }
                word if is_word(word) => {
                    let mut path = vec![word.to_owned()];
                    while text(next) == ":" && text(next + 1) == ":" && is_word(text(next + 2)) {
                        path.push(text(next + 2).to_owned());
                        next += 3;
                    }
                    // A field, a method, a variable and what is defined here are no mention of what a `use` brought in.
                    let can_be_used = word.starts_with(char::is_uppercase) || text(next) == "(";
                    if path.len() > 1 || can_be_used && before != "." && before != "fn" {
                        self.mentions.push((path, token.line));
                    }
                }
                _ => self.scan(&token.inside),
            }
        }
    }
}

/// Whether an attribute's brackets are those of `#[cfg(test)]`, of one that asks for more, or of `any(test, …)`.
fn is_test_code(attribute: &Token) -> bool {
    fn names_test(tokens: &[Token]) -> bool {
        tokens.iter().any(|token| token.text == "test")
            || tokens.windows(2).any(|two| two[0].text != "not" && names_test(&two[1].inside))
    }
    attribute.inside.first().is_some_and(|name| name.text == "cfg") && names_test(&attribute.inside)
}

/// The names of a `use` or of a part of it, whose paths go on from `prefix`.
fn take_uses(prefix: &[String], tree: &[Token], is_public: bool, uses: &mut Vec<Use>) {
    for part in tree.split(|token| token.text == ",") {
        let mut path = prefix.to_vec();
        for token in part.iter().take_while(|token| token.text != "as") {
            match token.text.as_str() {
                "{" => take_uses(&path, &token.inside, is_public, uses),
                // `self` in braces is what stands before them.
                "self" if !path.is_empty() => {}
                word if is_word(word) => path.push(word.to_owned()),
                _ => {}
            }
        }
        let Some(last) = part.last().filter(|last| last.text != "{") else { continue };
        let name = path.last().filter(|_| last.text == "self").unwrap_or(&last.text).clone();
        uses.push(Use { path, name, is_public, line: part[0].line });
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    const CIRCLE: &str = "files import each other in a circle: move what two of them need into a module before them";

    /// Whether exactly this is refused in these files: each refusal begins with one of `expected`.
    #[track_caller]
    fn check(files: &[(&str, &str)], expected: &[&str]) {
        let read = |(path, text): &(&str, &str)| (format!("src/{path}"), tokens(text.parse().unwrap()));
        let refused = refusals_in("src", &files.iter().map(read).collect());
        let fits = refused.iter().zip(expected).all(|(refusal, expected)| refusal.starts_with(expected));
        assert!(fits && refused.len() == expected.len(), "{refused:#?}");
    }

    /// What is refused in `a.rs`, which stands before `b/mod.rs`.
    #[track_caller]
    fn check_a(text: &str, expected: &[&str]) {
        check(&[("lib.rs", "mod a;\nmod b;"), ("a.rs", text), ("b/mod.rs", "mod c;"), ("b/c.rs", "")], expected);
    }

    #[test]
    fn imports_of_what_stands_before_pass() {
        let files = [
            ("lib.rs", "mod model;\nmod state;\nmod admin;"),
            ("model.rs", "pub struct Colour;"),
            ("state.rs", "use crate::model::Colour;"),
            ("admin/mod.rs", "mod auth;\nmod view;\npub use self::view::View;"),
            ("admin/auth.rs", "use crate::{model, state::State};\nfn f() { model::g() }"),
            ("admin/view.rs", "use super::auth::Caller;\nfn f() -> crate::state::State { loop {} }"),
        ];
        check(&files, &[]);
    }

    #[test]
    fn an_import_of_what_stands_later_is_refused_once_with_what_to_do() {
        let refused = "src/a.rs:2: imports src/b/mod.rs, which stands later in the order of the `mod` lines: move what \
                       both need into a module before both, or change the order of the lines";
        check_a("//! Why.\nuse crate::b::Store;\n\nfn f() { crate::b::read() }", &[refused]);
    }

    #[test]
    fn the_order_is_that_of_the_folder_in_which_two_paths_part() {
        let files = [
            ("lib.rs", "mod etcd;"),
            ("etcd/mod.rs", "pub mod follower;\npub mod deadline;"),
            ("etcd/follower/mod.rs", "pub mod list;"),
            ("etcd/follower/list.rs", "use super::super::deadline::WITHIN;"),
            ("etcd/deadline.rs", ""),
        ];
        let refused = "src/etcd/follower/list.rs:1: imports src/etcd/deadline.rs, which stands later";
        check(&files, &[refused]);
    }

    #[test]
    fn a_name_of_a_grouped_import_counts_at_its_own_line() {
        let refused = ["src/a.rs:2: imports src/b/mod.rs", "src/a.rs:3: imports src/b/c.rs"];
        check_a("use crate::{\n    b::{self, One},\n    b::c::Two as Other,\n};", &refused);
    }

    #[test]
    fn a_path_leads_to_the_file_at_its_end() {
        check_a("fn f() { vec![crate::b::c::D::new()] }", &["src/a.rs:1: imports src/b/c.rs"]);
        let refused = ["src/a.rs:1: imports src/b/mod.rs", "src/a.rs:2: imports src/b/c.rs"];
        check_a("use crate::b;\nfn f() { b::c::g() }", &refused);
    }

    #[test]
    fn a_circle_is_refused_as_one_with_the_imports_that_close_it() {
        let files = [
            ("lib.rs", "mod params;\nmod trial;\nmod intent;\nmod writing;"),
            ("params.rs", ""),
            ("trial.rs", "use super::writing::Writing;"),
            ("intent.rs", "use crate::trial::Trial;\nuse crate::params::Params;"),
            ("writing.rs", "use self::super::intent::Intent;"),
        ];
        let circle = format!(
            "{CIRCLE}\n  src/intent.rs:1: imports src/trial.rs\n  src/trial.rs:1: imports src/writing.rs\n  \
             src/writing.rs:1: imports src/intent.rs"
        );
        check(&files, &["src/trial.rs:1: imports src/writing.rs, which stands later", &circle]);
    }

    #[test]
    fn a_child_and_a_parent_that_uses_it_are_a_circle() {
        let check = |parent: &str, refused: &[&str]| {
            check(&[("lib.rs", "mod a;"), ("a/mod.rs", parent), ("a/view.rs", "use super::Step;")], refused);
        };
        check("mod view;\nuse self::view::View;\npub enum Step { Done(View) }", &[CIRCLE]);
        check("mod view;\npub enum Step { Done(view::View) }", &[CIRCLE]);
        // A re-export alone is not a use, but a mention of what it brings in is.
        check("mod view;\npub(crate) use self::view::View;\npub enum Step {}", &[]);
        check("mod view;\npub(crate) use self::view::View;\npub enum Step { Done(View) }", &[CIRCLE]);
    }

    #[test]
    fn a_sibling_is_named_directly_and_not_through_the_parent() {
        let files = [
            ("lib.rs", "mod config;\nmod state;"),
            ("config/mod.rs", "mod access;\nmod guard;\npub use self::access::Access;"),
            ("config/access.rs", ""),
            ("config/guard.rs", "use super::Access;\nuse crate::config::access::Role;"),
            // From outside the re-export is the way.
            ("state.rs", "use crate::config::Access;"),
        ];
        check(
            &files,
            &["src/config/guard.rs:1: imports src/config/access.rs by a `use` in its parent src/config/mod.rs: name"],
        );
    }

    #[test]
    fn test_code_may_import_what_it_likes() {
        check_a("#[cfg(test)]\nuse crate::b::B;\n#[cfg(test)]\n#[allow(x)]\nmod tests { use crate::b::B; }", &[]);
        check_a("#[cfg(all(test, not(target_arch = \"wasm32\")))]\nfn f() { crate::b::g() }", &[]);
        check_a("#[cfg(not(test))]\nuse crate::b::B;", &["src/a.rs:2: imports"]);
        check_a("#[cfg(test)]\nmod tests;\nuse crate::b::B;", &["src/a.rs:3: imports"]);
    }

    #[test]
    fn comments_and_literals_import_nothing() {
        let text = "//! [`crate::b::B`]\n/* crate::b /* nested */ crate::b::B */\n#[doc = \"crate::b::B\"]\n\
                    fn f<'a>(x: &'a str) { (\"crate::b::B\", r#\"\" crate::b::B\"#, '\"', b'\"'); }\nuse crate::b::r#type;";
        check_a(text, &["src/a.rs:5: imports"]);
    }

    #[test]
    fn a_file_beside_the_folder_of_its_children_is_refused() {
        let files =
            [("lib.rs", "mod etcd;\nmod admin;"), ("etcd.rs", "mod list;"), ("etcd/list.rs", ""), ("admin.rs", "")];
        check(&files, &["src/etcd.rs: its children are in src/etcd/: move it to src/etcd/mod.rs"]);
    }
}
