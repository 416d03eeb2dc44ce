// What nginx's own language cannot say: RFC 9110 section 12.5.1 over the formats of the simple API (PEP 691),
// and name normalisation (PEP 503). nginx calls this only for headers its map of common clients does not know.
// Runs on njs 0.7 (Debian 12) and later: plain ECMAScript 5 with const, let and arrow functions.

// In the server's order of preference, which decides between what a client wants equally and names equally: the most
// expressive first, text/html as a last resort (PEP 691, "Recommendations"). "latest" is PEP 691's alias for people; the
// answer names the version it is.
const FORMATS = [
    {name: 'v1_json', types: ['application/vnd.pypi.simple.v1+json', 'application/vnd.pypi.simple.latest+json']},
    {name: 'v1_html', types: ['application/vnd.pypi.simple.v1+html', 'application/vnd.pypi.simple.latest+html']},
    {name: 'html', types: ['text/html']},
];
// Who says nothing, or */*, is older than that choice, or a person.
const LEGACY = 'html';

const WEIGHT = /^(?:0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)$/;

// Splits at a separator, but not inside "quoted strings" (RFC 9110 section 5.6).
function split(text, separator) {
    const parts = [];
    let start = 0;
    let quoted = false;
    for (let i = 0; i < text.length; i++) {
        if (quoted && text[i] === '\\') {
            i++;
        } else if (text[i] === '"') {
            quoted = !quoted;
        } else if (text[i] === separator && !quoted) {
            parts.push(text.slice(start, i).trim());
            start = i + 1;
        }
    }
    parts.push(text.slice(start).trim());
    return parts;
}

// One element of Accept as {type, weight}; null when it is malformed or asks for a parameter no page of ours has.
function mediaRange(element) {
    const parts = split(element, ';');
    let weight = 1;
    for (let i = 1; i < parts.length; i++) {
        const equals = parts[i].indexOf('=');
        const key = parts[i].slice(0, equals).trim().toLowerCase();
        const value = parts[i].slice(equals + 1).trim().replace(/^"(.*)"$/, '$1');
        if (key === 'q') {
            if (!WEIGHT.test(value)) {
                return null;
            }
            weight = Number(value);
            break; // what follows q is not a parameter of the type
        }
        if (parts[i] !== '' && !(key === 'charset' && value.toLowerCase() === 'utf-8')) {
            return null;
        }
    }
    return {type: parts[0].toLowerCase(), weight: weight};
}

// The weight of a format is that of the most specific range that matches it, whatever their order.
function wanted(format, ranges) {
    let weight = 0;
    let specificity = 0;
    ranges.forEach((range) => {
        let matched = 0;
        if (format.types.indexOf(range.type) >= 0) {
            matched = 3;
        } else if (range.type === format.types[0].split('/')[0] + '/*') {
            matched = 2;
        } else if (range.type === '*/*') {
            matched = 1;
        }
        if (matched > specificity || (matched && matched === specificity && range.weight > weight)) {
            specificity = matched;
            weight = range.weight;
        }
    });
    return {name: format.name, weight: weight, specificity: specificity};
}

// The best acceptable format's name, or '' when none is.
function byAccept(accept) {
    const elements = split(accept, ',').filter((element) => element !== '');
    if (!elements.length) {
        return LEGACY;
    }
    const ranges = elements.map(mediaRange).filter((range) => range);
    let best = {name: '', weight: 0, specificity: 0};
    FORMATS.map((format) => wanted(format, ranges)).filter((format) => format.weight > 0).forEach((format) => {
        const better = format.weight - best.weight || format.specificity - best.specificity;
        if (better > 0 || (better === 0 && format.name === LEGACY && format.specificity === 1)) {
            best = format;
        }
    });
    return best.name;
}

// PEP 691's URL parameter: ?format=application/vnd.pypi.simple.v1+json, its plus sign encoded or not.
function byParameter(value) {
    const wanted = value.replace(/%2f/i, '/').replace(/%2b|%20/i, '+').toLowerCase();
    const format = FORMATS.filter((offered) => offered.types.indexOf(wanted) >= 0)[0];
    return format ? format.name : '';
}

function format(r) {
    const parameter = r.variables.arg_format;
    return parameter ? byParameter(parameter) : byAccept(r.headersIn.Accept || '');
}

function normalised(r) {
    return r.variables.given_name.replace(/[-_.]+/g, '-').toLowerCase();
}

export default {format, normalised};
