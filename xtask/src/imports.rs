//! Imports in the crates that run in the VM go one way.
//!
//! The order of the `mod` lines in a folder's `mod.rs` (in `lib.rs` for a crate) is the order of its modules: each may
//! import what stands before it. So there is no circle, and a newcomer can read a crate from top to bottom. (rustfmt sorts
//! `mod` lines that no blank line parts, unless it is told not to: `reorder_modules = false`.) Refused are
//!
//! * an import of a module that stands later,
//! * a circle of files, which two files of one parent can also close by way of their `mod.rs`,
//! * an import that reaches a module through a `use` of the importer's own parent,
//! * `foo.rs` beside `foo/`: a module with children is `foo/mod.rs`.
//!
//! Test code may import what it likes. The check reads text, not types: it follows `use`, paths in expressions and
//! re-exports, but neither macros that put paths together nor paths in the strings of attributes.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use bluegreen_programs::Checkout;

/// The crates that are checked, by the folder of their `lib.rs`.
const CRATES: [&str; 2] = ["core/src", "src"];

/// Until the core is rebuilt, what is found is only shown.
const REFUSES: bool = true;

/// A crate's files: their text, by a path with `/` from the repository's root.
type Files = BTreeMap<String, String>;

/// What is wrong, and what to do about it.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// `to` stands after `from` in the `mod` lines of `order`.
    Backwards { import: Import, order: String },
    /// The `mod` lines of `file`, in an order that would do.
    Order { file: String, order: Vec<String> },
    /// `import` goes through a `use` in `parent`, which is above the importer.
    ThroughParent { import: Import, parent: String },
    /// Each of these files reaches each other one.
    Circle { files: Vec<String>, imports: Vec<Import> },
    /// `file` has its children in a folder of the same name.
    TwoStyles { file: String },
}

/// That a file imports something that another one defines.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Import {
    file: String,
    line: usize,
    to: String,
}

/// The modules of a crate. The first one is its root.
#[derive(Debug, Default)]
struct Tree {
    modules: Vec<Module>,
}

#[derive(Debug, Default)]
struct Module {
    file: String,
    parent: Option<usize>,
    /// In the order of the `mod` lines.
    children: Vec<(String, usize)>,
    uses: Vec<Use>,
    /// Paths outside of `use`.
    paths: Vec<Mention<Vec<String>>>,
    /// Names that stand alone.
    words: Vec<Mention<String>>,
}

/// One name that a `use` brings in.
#[derive(Debug)]
struct Use {
    path: Vec<String>,
    /// None for a glob and for `as _`.
    name: Option<String>,
    is_glob: bool,
    is_public: bool,
    line: usize,
}

#[derive(Debug)]
struct Mention<T> {
    what: T,
    line: usize,
}

/// Where a path leads.
#[derive(Debug)]
struct Reached {
    module: usize,
    /// The path names the module itself, not something in it.
    is_module: bool,
    /// The modules whose `use` the path went through.
    through: Vec<usize>,
}

/// Two children of one parent, of which one, or something in it, imports the other, or something in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Fork {
    parent: usize,
    from: usize,
    to: usize,
}

/// A word, `::`, or one other character.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Token<'t> {
    text: &'t str,
    line: usize,
}

/// What is left to read of a file.
struct Reader<'t> {
    tokens: &'t [Token<'t>],
    next: usize,
}

/// A path that only leads through more `use` lines than this leads in a circle.
const MOST_USES: usize = 16;

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
    for refusal in &refusals {
        eprintln!("{refusal}");
    }
    if REFUSES && !refusals.is_empty() {
        bail!("{} imports or files are not where they belong, see above", refusals.len());
    }
    Ok(())
}

fn read_folder(root: &Path, folder: &str, files: &mut Files) -> Result<()> {
    let entries = fs::read_dir(root.join(folder)).with_context(|| format!("cannot list {folder}"))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {folder}"))?;
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if entry.file_type().with_context(|| path.clone())?.is_dir() {
            read_folder(root, &path, files)?;
        } else if path.ends_with(".rs") {
            let text = fs::read_to_string(entry.path()).with_context(|| format!("cannot read {path}"))?;
            files.insert(path, text);
        }
    }
    Ok(())
}

/// What is wrong in the crate whose `lib.rs` is in `folder`, in the order of the files.
fn refusals_in(folder: &str, files: &Files) -> Vec<Refusal> {
    let mut refusals: Vec<Refusal> = files.keys().filter_map(|file| two_styles(file, files)).collect();
    let tree = Tree::read(folder, files);
    // One report for each pair of files, at the first line.
    let mut imports = BTreeMap::new();
    let mut past_parents = BTreeSet::new();
    let mut between = BTreeSet::new();
    let mut out_of_order = BTreeSet::new();
    for (from, import, reached) in tree.imports() {
        let pair = (import.file.clone(), import.to.clone());
        let is_above = |module: &&usize| tree.ancestors(from).contains(module);
        let parent = reached.through.iter().find(is_above).map(|&module| tree.modules[module].file.clone());
        if let Some(parent) = parent.filter(|parent| *parent != import.to && past_parents.insert(pair.clone())) {
            refusals.push(Refusal::ThroughParent { import: import.clone(), parent });
        }
        if let Entry::Vacant(vacant) = imports.entry(pair) {
            let fork = tree.fork(from, reached.module);
            between.extend(fork);
            if let Some(fork) =
                fork.filter(|fork| tree.place(fork.parent, fork.to) > tree.place(fork.parent, fork.from))
            {
                out_of_order.insert(fork.parent);
                let order = tree.modules[fork.parent].file.clone();
                refusals.push(Refusal::Backwards { import: import.clone(), order });
            }
            vacant.insert(import);
        }
    }
    refusals.extend(out_of_order.into_iter().filter_map(|parent| tree.better_order(parent, &between)));
    refusals.extend(circles(imports.into_values().collect()));
    refusals
}

fn two_styles(file: &str, files: &Files) -> Option<Refusal> {
    let folder = format!("{}/", file.strip_suffix(".rs")?);
    let has_children = files.keys().any(|other| other.starts_with(&folder));
    has_children.then(|| Refusal::TwoStyles { file: file.to_owned() })
}

/// The groups of files in which each one reaches each other one.
fn circles(imports: Vec<Import>) -> Vec<Refusal> {
    let mut reached_from: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for import in &imports {
        let mut reached = BTreeSet::new();
        let mut open = vec![import.file.as_str()];
        while let Some(file) = open.pop() {
            open.extend(
                imports.iter().filter(|i| i.file == file).map(|i| i.to.as_str()).filter(|&to| reached.insert(to)),
            );
        }
        reached_from.insert(&import.file, reached);
    }
    let reaches = |from: &str, to: &str| reached_from.get(from).is_some_and(|reached| reached.contains(to));
    let mut groups = BTreeSet::new();
    for &file in reached_from.keys().filter(|file| reaches(file, file)) {
        let others = reached_from.keys().filter(|other| reaches(file, other) && reaches(other, file));
        groups.insert(others.map(|&other| other.to_owned()).collect::<Vec<_>>());
    }
    let within = |files: &Vec<String>, import: &&Import| files.contains(&import.file) && files.contains(&import.to);
    let circle = |files: Vec<String>| {
        let imports = imports.iter().filter(|import| within(&files, import)).cloned().collect();
        Refusal::Circle { files, imports }
    };
    groups.into_iter().map(circle).collect()
}

// === impl Tree ===

impl Tree {
    fn read(folder: &str, files: &Files) -> Self {
        let mut tree = Self::default();
        tree.add(None, &format!("{folder}/lib.rs"), &format!("{folder}/"), files);
        tree
    }

    /// Adds the module that `file` holds, and its children, whose files are in `folder` (which ends with a `/`).
    fn add(&mut self, parent: Option<usize>, file: &str, folder: &str, files: &Files) -> usize {
        let tokens = tokens(files.get(file).map_or("", String::as_str));
        self.add_module(parent, file, folder, &mut Reader { tokens: &tokens, next: 0 }, files)
    }

    fn add_module(
        &mut self,
        parent: Option<usize>,
        file: &str,
        folder: &str,
        reader: &mut Reader<'_>,
        files: &Files,
    ) -> usize {
        let index = self.modules.len();
        self.modules.push(Module { file: file.to_owned(), parent, ..Module::default() });
        let mut module = Module::default();
        let mut depth = 0_usize;
        let mut is_public = false;
        while let Some(token) = reader.take() {
            match token.text {
                "#" => {
                    if reader.skip_attribute() {
                        reader.skip_item();
                    }
                    continue;
                }
                "pub" => {
                    if reader.peek(0) == "(" {
                        reader.skip_group();
                    }
                    is_public = true;
                    continue;
                }
                "mod" if is_word(reader.peek(0)) => {
                    let name = reader.peek(0).to_owned();
                    let opens = reader.peek(1) == "{";
                    reader.next += 2;
                    let inner = format!("{folder}{name}/");
                    let beside = [format!("{folder}{name}.rs"), format!("{inner}mod.rs")];
                    let child = if opens {
                        Some(self.add_module(Some(index), file, &inner, reader, files))
                    } else {
                        // rustc reports a file that is missing.
                        let own = beside.iter().find(|path| files.contains_key(*path));
                        own.map(|path| self.add(Some(index), path, &inner, files))
                    };
                    module.children.extend(child.map(|child| (name, child)));
                }
                "use" => reader.take_tree(&[], token.line, is_public, &mut module.uses),
                "{" => depth += 1,
                "}" if depth == 0 => break,
                "}" => depth -= 1,
                word if is_word(word) && reader.peek(0) == "::" => {
                    let what = reader.take_path(word);
                    module.paths.push(Mention { what, line: token.line });
                }
                word if is_word(word) && reader.is_mention(word) => {
                    module.words.push(Mention { what: word.to_owned(), line: token.line });
                }
                _ => {}
            }
            is_public = false;
        }
        if let Some(place) = self.modules.get_mut(index) {
            place.children = module.children;
            place.uses = module.uses;
            place.paths = module.paths;
            place.words = module.words;
        }
        index
    }

    /// What each module imports from other files.
    fn imports(&self) -> Vec<(usize, Import, Reached)> {
        let mut imports = Vec::new();
        for (from, module) in self.modules.iter().enumerate() {
            let mut add = |path: &[String], line: usize| {
                if let Some(reached) = self.resolve(from, path, 0) {
                    let to = self.modules[reached.module].file.clone();
                    if to != module.file {
                        imports.push((from, Import { file: module.file.clone(), line, to }, reached));
                    }
                }
            };
            for usage in &module.uses {
                // A module's name alone is nothing yet: what is used of it counts.
                let named = self.resolve(from, &usage.path, 0);
                let is_alias = named.as_ref().is_some_and(|reached| reached.is_module) && !usage.is_glob;
                let is_descendant =
                    named.as_ref().is_some_and(|reached| self.ancestors(reached.module).contains(&from));
                let is_export = usage.is_public && is_descendant && !usage.is_glob;
                let mention = module.words.iter().find(|word| Some(&word.what) == usage.name.as_ref());
                match mention {
                    Some(mention) if is_export => add(&usage.path, mention.line),
                    None if is_export => {}
                    _ if is_alias && !usage.is_public => {}
                    _ => add(&usage.path, usage.line),
                }
            }
            for mention in &module.paths {
                let named = |usage: &&Use| usage.name.as_ref() == mention.what.first();
                let line = module.uses.iter().find(named).map_or(mention.line, |usage| usage.line);
                add(&mention.what, line);
            }
        }
        imports.sort_by(|(_, one, _), (_, other, _)| one.cmp(other));
        imports
    }

    /// None: the path leads to another crate, or to nothing but a name in scope.
    fn resolve(&self, from: usize, path: &[String], uses: usize) -> Option<Reached> {
        let (mut at, mut rest) = match path.split_first()? {
            (first, rest) if first == "crate" => (0, rest),
            (first, _) if first == "self" || first == "super" => (from, path),
            (first, _) if self.child(from, first).is_some() || self.used(from, first).is_some() => (from, path),
            _ => return None,
        };
        let mut through = Vec::new();
        while let Some((segment, after)) = rest.split_first() {
            if segment == "super" {
                at = self.modules.get(at)?.parent?;
            } else if let Some(child) = self.child(at, segment) {
                at = child;
            } else if let Some(usage) = self.used(at, segment) {
                if uses == MOST_USES {
                    return None;
                }
                if at != from {
                    through.push(at);
                }
                let longer: Vec<String> = usage.path.iter().chain(after).cloned().collect();
                let mut reached = self.resolve(at, &longer, uses + 1)?;
                through.append(&mut reached.through);
                return Some(Reached { through, ..reached });
            } else if segment != "self" {
                return Some(Reached { module: at, is_module: false, through });
            }
            rest = after;
        }
        Some(Reached { module: at, is_module: true, through })
    }

    fn child(&self, module: usize, name: &str) -> Option<usize> {
        self.modules.get(module)?.children.iter().find(|(child, _)| child == name).map(|&(_, index)| index)
    }

    fn used(&self, module: usize, name: &str) -> Option<&Use> {
        self.modules.get(module)?.uses.iter().find(|usage| usage.name.as_deref() == Some(name))
    }

    /// The module's parent, its parent's, and so on.
    fn ancestors(&self, module: usize) -> Vec<usize> {
        std::iter::successors(self.modules[module].parent, |&above| self.modules[above].parent).collect()
    }

    /// Where the ways from the root to two modules part. Parents and children have no order between them.
    fn fork(&self, from: usize, to: usize) -> Option<Fork> {
        let way = |module| {
            let mut way = self.ancestors(module);
            way.reverse();
            way.push(module);
            way
        };
        let (from, to) = (way(from), way(to));
        let place = from.iter().zip(&to).position(|(one, other)| one != other)?;
        Some(Fork { parent: from[place - 1], from: from[place], to: to[place] })
    }

    /// Which of the parent's `mod` lines is the child's.
    fn place(&self, parent: usize, child: usize) -> Option<usize> {
        self.modules[parent].children.iter().position(|&(_, index)| index == child)
    }

    /// The `mod` lines of `parent` in an order that its children's imports keep to, if there is one.
    fn better_order(&self, parent: usize, between: &BTreeSet<Fork>) -> Option<Refusal> {
        let Module { file, children, .. } = &self.modules[parent];
        let mut rest: Vec<&(String, usize)> = children.iter().collect();
        let mut order = Vec::new();
        while !rest.is_empty() {
            let is_left = |child: usize| rest.iter().any(|&&(_, left)| left == child);
            let waits = |child: usize| between.iter().any(|fork| fork.from == child && is_left(fork.to));
            let next = rest.iter().position(|&&(_, child)| !waits(child))?;
            order.push(rest.remove(next).0.clone());
        }
        Some(Refusal::Order { file: file.clone(), order })
    }
}

// === impl Reader ===

impl<'t> Reader<'t> {
    fn take(&mut self) -> Option<Token<'t>> {
        let token = self.tokens.get(self.next).copied();
        self.next += 1;
        token
    }

    /// The text `ahead` tokens further on; empty at the end.
    fn peek(&self, ahead: usize) -> &'t str {
        self.tokens.get(self.next + ahead).map_or("", |token| token.text)
    }

    /// The text before the token that was taken last.
    fn before(&self) -> &'t str {
        self.next.checked_sub(2).and_then(|place| self.tokens.get(place)).map_or("", |token| token.text)
    }

    /// Whether the word that was taken last can stand for what a `use` brought in. A field, a method and the name of
    /// what is defined here cannot.
    fn is_mention(&self, word: &str) -> bool {
        let is_defined_here = matches!(self.before(), "." | "fn" | "struct" | "enum" | "trait" | "type");
        !is_defined_here && (word.starts_with(char::is_uppercase) || self.peek(0) == "(")
    }

    /// Skips from a bracket to the one that closes it.
    fn skip_group(&mut self) {
        let mut depth = 0_usize;
        while let Some(token) = self.take() {
            match token.text {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// Skips what follows a `#`. Says whether what the attribute stands on is test code.
    fn skip_attribute(&mut self) -> bool {
        let is_outer = self.peek(0) == "[";
        if !is_outer {
            self.next += 1;
        }
        let start = self.next;
        self.skip_group();
        let attribute = self.tokens.get(start..self.next).unwrap_or_default();
        let is_conditional = attribute.get(1).is_some_and(|token| token.text == "cfg");
        let names_test =
            |three: &[Token<'_>]| matches!(three, [a, b, c] if c.text == "test" && !(a.text == "not" && b.text == "("));
        is_outer && is_conditional && attribute.windows(3).any(names_test)
    }

    /// Skips an item: to its `;`, or to the end of its braces.
    fn skip_item(&mut self) {
        loop {
            match self.peek(0) {
                "" | "}" => return,
                ";" => {
                    self.next += 1;
                    return;
                }
                "{" => return self.skip_group(),
                "(" | "[" => self.skip_group(),
                _ => self.next += 1,
            }
        }
    }

    /// The rest of a path whose first word was taken.
    fn take_path(&mut self, first: &str) -> Vec<String> {
        let mut path = vec![first.to_owned()];
        while self.peek(0) == "::" && is_word(self.peek(1)) {
            path.push(self.peek(1).to_owned());
            self.next += 2;
        }
        path
    }

    /// The names of a `use`, whose paths go on from `prefix`, up to its `;` or to the `,` or `}` around it.
    fn take_tree(&mut self, prefix: &[String], line: usize, is_public: bool, uses: &mut Vec<Use>) {
        let mut path = prefix.to_vec();
        let mut name = None;
        let mut is_glob = false;
        loop {
            let word = self.peek(0);
            match word {
                "" | ";" | "," | "}" => break,
                "{" => {
                    self.next += 1;
                    while !matches!(self.peek(0), "" | "}") {
                        let line = self.tokens.get(self.next).map_or(line, |token| token.line);
                        self.take_tree(&path, line, is_public, uses);
                        if self.peek(0) == "," {
                            self.next += 1;
                        }
                    }
                    self.next += 1;
                    return;
                }
                "*" => is_glob = true,
                "as" => {
                    name = Some(self.peek(1)).filter(|&name| name != "_").map(str::to_owned);
                    self.next += 2;
                    break;
                }
                // `self` in braces is what stands before them.
                "self" if !path.is_empty() => {}
                _ if is_word(word) => path.push(word.to_owned()),
                _ => {}
            }
            self.next += 1;
            name = path.last().filter(|_| !is_glob).cloned();
        }
        uses.push(Use { path, name, is_glob, is_public, line });
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// The words and signs of a Rust file, without comments, literals and lifetimes.
fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let length = length_of_next(rest, first);
        let (token, after) = rest.split_at(length);
        let is_sign = token == "::" || (length == first.len_utf8() && !first.is_whitespace() && !first.is_numeric());
        if is_word(token) && !token.contains(['"', '\'']) || is_sign {
            tokens.push(Token { text: token.trim_start_matches("r#"), line });
        }
        line += token.matches('\n').count();
        rest = after;
    }
    tokens
}

/// How many bytes the comment, literal, word or sign is long that `rest` begins with.
fn length_of_next(rest: &str, first: char) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return length_of_block_comment(rest);
    }
    if rest.starts_with("::") {
        return 2;
    }
    if first == '\'' {
        return length_of_quote(rest);
    }
    let is_part = |part: char| part.is_alphanumeric() || part == '_';
    let word = rest.find(|part| !is_part(part)).unwrap_or(rest.len());
    let (word, after) = rest.split_at(word);
    if matches!(word, "" | "b" | "c") && after.starts_with('"') {
        return word.len() + length_of_quoted(after, '"');
    }
    if word == "b" && after.starts_with('\'') {
        return word.len() + length_of_quoted(after, '\'');
    }
    if matches!(word, "r" | "br" | "cr") {
        let hashes = after.len() - after.trim_start_matches('#').len();
        let after = after.split_at(hashes).1;
        if after.starts_with('"') {
            let end = format!("\"{}", "#".repeat(hashes));
            let inside = after.split_at(1).1;
            let closed = inside.find(&end).map_or(inside.len(), |at| at + end.len());
            return word.len() + hashes + 1 + closed;
        }
        if word == "r" && hashes == 1 {
            return 2 + after.find(|part| !is_part(part)).unwrap_or(after.len());
        }
    }
    word.len().max(first.len_utf8())
}

/// Block comments nest.
fn length_of_block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(here) = rest.get(at..).filter(|here| !here.is_empty()) {
        if here.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if here.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// A character, or a lifetime.
fn length_of_quote(rest: &str) -> usize {
    let mut characters = rest.chars().skip(1);
    let (second, third) = (characters.next(), characters.next());
    if second == Some('\\') || third == Some('\'') {
        return length_of_quoted(rest, '\'');
    }
    let name = rest.split_at(1).1;
    1 + name.find(|part: char| !part.is_alphanumeric() && part != '_').unwrap_or(name.len())
}

fn length_of_quoted(rest: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, character) in rest.char_indices().skip(1) {
        if is_escaped {
            is_escaped = false;
        } else if character == '\\' {
            is_escaped = true;
        } else if character == quote {
            return at + 1;
        }
    }
    rest.len()
}

// === impl Refusal ===

impl fmt::Display for Refusal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backwards { import, order } => write!(
                formatter,
                "{import}, which stands after it in the `mod` lines of {order}: move what both need into a module before \
                 both, or change the order of the lines"
            ),
            Self::Order { file, order } => {
                write!(formatter, "{file}: `mod` lines in this order would do: {}", order.join(", "))
            }
            Self::ThroughParent { import, parent } => {
                write!(formatter, "{import} through a `use` in its parent {parent}: name the module that defines it")
            }
            Self::Circle { files, imports } => {
                write!(formatter, "{}: {} files import each other in a circle", files.join(", "), files.len())?;
                for import in imports {
                    write!(formatter, "\n  {import}")?;
                }
                write!(formatter, "\n  move what two of them need into a module of its own that stands before them")
            }
            Self::TwoStyles { file } => {
                let folder = file.trim_end_matches(".rs");
                write!(formatter, "{file}: its children are in {folder}/: move it to {folder}/mod.rs")
            }
        }
    }
}

// === impl Import ===

impl fmt::Display for Import {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: imports {}", self.file, self.line, self.to)
    }
}

// === tests ===

#[cfg(test)]
mod tests {
    use super::*;

    /// What is refused, and the orders that would do.
    fn all(files: &[(&str, &str)]) -> (Vec<Refusal>, Vec<Refusal>) {
        let files = files.iter().map(|(path, text)| (format!("src/{path}"), (*text).to_owned())).collect();
        refusals_in("src", &files).into_iter().partition(|refusal| !matches!(refusal, Refusal::Order { .. }))
    }

    fn refusals(files: &[(&str, &str)]) -> Vec<Refusal> {
        all(files).0
    }

    fn import(file: &str, line: usize, to: &str) -> Import {
        Import { file: format!("src/{file}"), line, to: format!("src/{to}") }
    }

    fn backwards(import: Import, order: &str) -> Refusal {
        Refusal::Backwards { import, order: format!("src/{order}") }
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
        assert_eq!(refusals(&files), []);
    }

    #[test]
    fn an_import_of_what_stands_later_is_refused() {
        let files = [
            ("lib.rs", "mod state;\nmod store;"),
            ("state.rs", "//! Why.\nuse crate::store::Store;\n\nfn f() { crate::store::read() }"),
            ("store.rs", ""),
        ];
        assert_eq!(refusals(&files), [backwards(import("state.rs", 2, "store.rs"), "lib.rs")]);
    }

    #[test]
    fn the_order_is_that_of_the_folder_in_which_two_paths_part() {
        let files = [
            ("lib.rs", "mod config;\nmod etcd;"),
            ("config/mod.rs", "pub mod reader;"),
            ("config/reader.rs", "use crate::etcd::follower::list::List;"),
            ("etcd/mod.rs", "pub mod follower;\npub mod deadline;"),
            ("etcd/follower/mod.rs", "pub mod list;"),
            ("etcd/follower/list.rs", "use super::super::deadline::WITHIN;"),
            ("etcd/deadline.rs", ""),
        ];
        let refused = [
            backwards(import("config/reader.rs", 1, "etcd/follower/list.rs"), "lib.rs"),
            backwards(import("etcd/follower/list.rs", 1, "etcd/deadline.rs"), "etcd/mod.rs"),
        ];
        assert_eq!(refusals(&files), refused);
    }

    #[test]
    fn an_order_that_would_do_is_shown_unless_there_is_none() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\nmod c;\nmod d;"),
            ("a.rs", "use crate::c::C;"),
            ("b.rs", ""),
            ("c.rs", "use crate::d::D;"),
            ("d.rs", "use crate::b::B;"),
        ];
        let order = ["b", "d", "c", "a"].map(str::to_owned).to_vec();
        assert_eq!(all(&files).1, [Refusal::Order { file: "src/lib.rs".to_owned(), order }]);
        let files = [("lib.rs", "mod a;\nmod b;"), ("a.rs", "use crate::b::B;"), ("b.rs", "use crate::a::A;")];
        assert_eq!(all(&files).1, []);
    }

    #[test]
    fn each_name_of_a_grouped_import_counts_at_its_own_line() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\nmod c;"),
            ("a.rs", "use crate::{\n    b::{self, One},\n    c::Two as Other,\n};"),
            ("b.rs", ""),
            ("c.rs", ""),
        ];
        let refused = [backwards(import("a.rs", 2, "b.rs"), "lib.rs"), backwards(import("a.rs", 3, "c.rs"), "lib.rs")];
        assert_eq!(refusals(&files), refused);
    }

    #[test]
    fn a_path_through_an_imported_module_leads_to_the_file_at_its_end() {
        let files = [
            ("lib.rs", "mod a;\nmod b;"),
            ("a.rs", "use crate::b;\n\nfn f() { b::inner::g() }"),
            ("b/mod.rs", "pub mod inner;"),
            ("b/inner.rs", ""),
        ];
        assert_eq!(refusals(&files), [backwards(import("a.rs", 1, "b/inner.rs"), "lib.rs")]);
    }

    #[test]
    fn a_circle_of_four_is_refused_as_one() {
        let files = [
            ("lib.rs", "mod admin;"),
            ("admin/mod.rs", "mod params;\nmod committing;\nmod intent;\nmod trial;\nmod writing;"),
            ("admin/params.rs", ""),
            ("admin/committing.rs", "use super::intent::Intent;\nuse super::params::Params;"),
            ("admin/intent.rs", "use super::trial::Trial;"),
            ("admin/trial.rs", "use super::writing::Writing;"),
            ("admin/writing.rs", "use super::committing::Committing;"),
        ];
        let circle = Refusal::Circle {
            files: ["committing", "intent", "trial", "writing"].map(|name| format!("src/admin/{name}.rs")).to_vec(),
            imports: vec![
                import("admin/committing.rs", 1, "admin/intent.rs"),
                import("admin/intent.rs", 1, "admin/trial.rs"),
                import("admin/trial.rs", 1, "admin/writing.rs"),
                import("admin/writing.rs", 1, "admin/committing.rs"),
            ],
        };
        assert_eq!(refusals(&files).last(), Some(&circle));
    }

    #[test]
    fn a_child_and_a_parent_that_uses_it_are_a_circle() {
        let parent = |text: &str| {
            [("lib.rs", "mod admin;"), ("admin/mod.rs", text), ("admin/view.rs", "use super::Step;")]
                .map(|(path, text)| (path.to_owned(), text.to_owned()))
        };
        let refusals = |text: &str| {
            let files = parent(text);
            refusals(&files.each_ref().map(|(path, text)| (path.as_str(), text.as_str())))
        };
        let is_circle = |refusals: &[Refusal]| matches!(refusals, [Refusal::Circle { files, .. }] if files.len() == 2);
        assert!(is_circle(&refusals("mod view;\nuse self::view::View;\npub enum Step { Done(View) }")));
        assert!(is_circle(&refusals("mod view;\npub enum Step { Done(view::View) }")));
        // A re-export alone is not a use, but a mention of what it brings in is.
        assert_eq!(refusals("mod view;\npub use self::view::View;\npub enum Step {}"), []);
        assert!(is_circle(&refusals("mod view;\npub use self::view::View;\npub enum Step { Done(View) }")));
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
        let import = import("config/guard.rs", 1, "config/access.rs");
        assert_eq!(refusals(&files), [Refusal::ThroughParent { import, parent: "src/config/mod.rs".to_owned() }]);
    }

    #[test]
    fn test_code_may_import_what_it_likes() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\n#[cfg(all(test, not(target_arch = \"wasm32\")))]\nmod fake;\nmod c;"),
            ("a.rs", "#[cfg(test)]\nuse crate::b::B;\n#[cfg(test)]\n#[allow(x)]\nmod tests { use crate::b::B; }"),
            ("b.rs", "#[cfg(test)]\nmod tests;\n\nuse crate::c::C;"),
            ("fake.rs", "use crate::c::C;"),
            ("c.rs", "#[cfg(not(test))]\nuse crate::a::A;"),
        ];
        assert_eq!(refusals(&files), [backwards(import("b.rs", 4, "c.rs"), "lib.rs")]);
    }

    #[test]
    fn comments_and_literals_import_nothing() {
        let text = "//! [`crate::b::B`]\n/* crate::b /* nested */ crate::b::B */\n#[doc = \"crate::b::B\"]\nfn f<'a>(x: &'a str) {\n\
                    let _ = (\"crate::b::B \\\" crate::b\", r#\"\" crate::b::B\"#, b\"crate::b::B\", '\"', '\\'', b'\"');\n}\n\
                    use crate::b::r#type;";
        let files = [("lib.rs", "mod a;\nmod b;"), ("a.rs", text), ("b.rs", "")];
        assert_eq!(refusals(&files), [backwards(import("a.rs", 7, "b.rs"), "lib.rs")]);
    }

    #[test]
    fn a_file_beside_the_folder_of_its_children_is_refused() {
        let files = [
            ("lib.rs", "mod etcd;\nmod admin;"),
            ("etcd.rs", "mod follower;"),
            ("etcd/follower.rs", "use crate::admin::Api;"),
            ("admin.rs", ""),
        ];
        let refused = [
            Refusal::TwoStyles { file: "src/etcd.rs".to_owned() },
            backwards(import("etcd/follower.rs", 1, "admin.rs"), "lib.rs"),
        ];
        assert_eq!(refusals(&files), refused);
    }

    #[test]
    fn a_refusal_says_where_it_is_and_what_to_do() {
        let refusal = backwards(import("state.rs", 7, "store.rs"), "lib.rs").to_string();
        assert!(refusal.starts_with("src/state.rs:7: imports src/store.rs, which stands after it"), "{refusal}");
        assert!(refusal.contains("or change the order of the lines"), "{refusal}");
    }
}
