//! The functions that rules call and CEL itself lacks.
//!
//! Of Kubernetes' libraries these are the two of which the schemas of Istio, Envoy Gateway and the Gateway API use
//! something: `strings` (`split`, `substring`, `upperAscii`), which the `cel` crate brings as an extension, and `url`
//! (`isURL`, `url`, `getScheme`), which is here. A rule that calls anything else does not compile.

use std::any::Any;

use cel::common::ast::{CallExpr, Expr};
use cel::common::types::{CelBool, CelString, Type};
use cel::common::value::{StaticVal, Val};
use cel::parser::Macro;
use cel::{DeclarationError, Env, ExecutionError, extensions};

/// The units of a duration, the longer ones of those with the same start first.
const UNITS: [&str; 8] = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"];

/// CEL's name for a URL's type.
static URL: Type = Type::new_unspecified_type("kubernetes.URL");

/// What `url` makes of a text.
#[derive(Clone, Debug, PartialEq)]
struct Url {
    /// In lower case; empty when the text is a path.
    scheme: String,
}

/// The environment of rules.
pub fn environment() -> Result<Env, DeclarationError> {
    let mut env = Env::stdlib();
    env.add_extension(extensions::strings)?;
    cel::add_overload!(env, fn is_url: (CelString) -> CelBool, name = "isURL")?;
    cel::add_overload!(env, fn url: (CelString) -> Result<Url>)?;
    cel::add_member_overload!(env, fn get_scheme: (Url) -> CelString)?;
    // The crate's `duration` takes what starts like one, so a text is looked at before.
    cel::add_overload!(env, fn checked: (CelString) -> Result<CelString>, name = "@duration")?;
    env.add_macro(Macro::global("duration", 1, |helper, _, arguments| {
        let call = |name: &str, args| Expr::Call(CallExpr { func_name: name.to_owned(), target: None, args });
        let checked = helper.next_expr(call("@duration", std::mem::take(arguments)));
        Ok(Some(helper.next_expr(call("duration", vec![checked]))))
    }))?;
    Ok(env)
}

// === impl Url ===

impl Url {
    /// What Go's `url.ParseRequestURI` takes, as far as it matters for container images: an absolute URL or an absolute
    /// path.
    fn parse(text: &str) -> Option<Self> {
        // The parser drops these where Go refuses them.
        if text.chars().any(char::is_control) || text.trim() != text {
            return None;
        }
        if text.starts_with('/') {
            return Some(Self { scheme: String::new() });
        }
        let url = reqwest::Url::parse(text).ok()?;
        Some(Self { scheme: url.scheme().to_owned() })
    }
}

impl Val for Url {
    fn get_type(&self) -> &Type {
        Self::cel_type()
    }

    fn cel_type() -> &'static Type {
        &URL
    }

    fn equals(&self, other: &dyn Val) -> bool {
        other.downcast_ref::<Self>() == Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(self.clone())
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Url {}

fn is_url(text: &CelString<'_>) -> CelBool {
    Url::parse(text.inner()).is_some().into()
}

fn url(text: &CelString<'_>) -> Result<Url, ExecutionError> {
    Url::parse(text.inner()).ok_or_else(|| ExecutionError::function_error("url", "neither a URL nor an absolute path"))
}

fn get_scheme(url: &Url) -> CelString<'static> {
    url.scheme.clone().into()
}

/// The text itself, if Go would read it as a duration.
fn checked(text: &CelString<'_>) -> Result<CelString<'static>, ExecutionError> {
    let refusal = || ExecutionError::function_error("duration", format!("{:?} is no duration", text.inner()));
    let mut rest = text.inner();
    rest = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    if rest == "0" {
        return Ok(text.inner().to_owned().into());
    }
    if rest.is_empty() {
        return Err(refusal());
    }
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').ok_or_else(refusal)?;
        let (number, unit) = rest.split_at(digits);
        number.parse::<f64>().map_err(|_| refusal())?;
        rest = UNITS.iter().find_map(|of| unit.strip_prefix(of)).ok_or_else(refusal)?;
    }
    Ok(text.inner().to_owned().into())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use anyhow::{Result, ensure};
    use cel::{Context, Value};

    use super::*;

    fn evaluate(expression: &str) -> Result<Value> {
        let env = Arc::new(environment()?);
        Ok(env.compile(expression)?.execute(&Context::with_env(Arc::clone(&env)))?)
    }

    #[test]
    fn functions_of_the_schemas_do_what_those_of_an_api_server_do() -> Result<()> {
        for expression in [
            "isURL('oci://registry.example.com/bluegreen:0.1.0')",
            "isURL('https://example.com:8080/a?b=c#d')",
            "isURL('file:///module.wasm')",
            "isURL('registry.example.com:5000/bluegreen')",
            "isURL('/a/b')",
            "!isURL('')",
            "!isURL('registry.example.com/bluegreen')",
            "!isURL('http://example.com:port/')",
            "!isURL('http://exa mple.com/')",
            "!isURL(' http://example.com/')",
            "!isURL('http://example.com/\\n')",
            "url('oci://registry.example.com/bluegreen:0.1.0').getScheme() == 'oci'",
            "url('HTTP://localhost/').getScheme() == 'http'",
            "url('registry.example.com:5000/bluegreen').getScheme() == 'registry.example.com'",
            "url('/a/b').getScheme() == ''",
            "url('/a/b') == url('/a/b')",
            "'a/b'.split('/') == ['a', 'b']",
            "'unix:///socket'.substring(7, 8) == '/'",
            "'post'.upperAscii() == 'POST'",
            "duration('1h2m3.5s') > duration('1h2m3s')",
            "duration('0') == duration('0s')",
            "duration('-1ms') < duration('1us')",
        ] {
            let result = evaluate(expression)?;
            ensure!(result == true.into(), "{expression} -> {result:?}");
        }
        Ok(())
    }

    #[test]
    fn what_an_api_server_takes_for_an_error_is_one() -> Result<()> {
        for expression in [
            "url('registry.example.com/bluegreen')",
            "url('/a').getHost()",
            "'unix:/'.substring(7, 8)",
            "duration('')",
            "duration('-')",
            "duration('10')",
            "duration('1h0')",
            "duration('10ss')",
            "duration('1h-5m')",
            "duration('1e3s')",
            "duration('1.2.3s')",
            "duration('1d')",
        ] {
            let result = evaluate(expression);
            ensure!(result.is_err(), "{expression} -> {result:?}");
        }
        Ok(())
    }
}
