// What a mirror makes of upstream's answers before it caches them (ask.conf): pages name our files, and say nothing that we
// do not know. Runs on njs 0.7 (Debian 12) and later: plain ECMAScript 5 with const, let and arrow functions.

// The last version of each form that we know: PEP 792. HTML is frozen at it (PEP 833).
const MINOR = 4;
const KEYS = {
    page: ['meta', 'name', 'versions', 'files', 'project-status', 'alternate-locations'],
    meta: ['api-version', 'project-tracks', 'tracks'],
    file: ['filename', 'url', 'hashes', 'requires-python', 'core-metadata', 'dist-info-metadata', 'gpg-sig', 'yanked',
        'size', 'upload-time', 'provenance'],
    status: ['status', 'reason'],
};
const V1_JSON = 'application/vnd.pypi.simple.v1+json';
const HTML = ['text/html', 'application/vnd.pypi.simple.v1+html'];

// PEP 740, and nothing that a page cannot carry.
const PROVENANCE = /^https:\/\/[^\s"'<>\\\/?#@]+([\/?#][^\s"'<>\\]*)?$/;
// PEP 792 has four statuses. Another one is passed on: what it means for installers is theirs to know.
const STATUS = /^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$/;

// The path of a file as upstream is asked for it: of all that may be encoded only the unreserved stays (RFC 3986 section
// 2.3), so that one file has one name whichever way a client spells it.
function encoded(r) {
    let path = '';
    const bytes = r.rawVariables.uri;
    for (let i = 0; i < bytes.length; i++) {
        const character = String.fromCharCode(bytes[i]);
        path += /[A-Za-z0-9\/._~-]/.test(character) ? character
            : '%' + (bytes[i] < 16 ? '0' : '') + bytes[i].toString(16).toUpperCase();
    }
    return path;
}

// A reference resolved (RFC 3986 section 5.2, without dot segments beyond leading "../"); '' when it is no http URL.
function resolved(reference, base) {
    const parts = /^(https?:)\/\/([^\/?#]*)([^?#]*)/i.exec(base);
    if (/^[a-z][a-z0-9+.-]*:/i.test(reference)) {
        return /^https?:\/\//i.test(reference) ? reference : '';
    }
    if (reference.slice(0, 2) === '//') {
        return parts[1] + reference;
    }
    const origin = parts[1] + '//' + parts[2];
    if (reference[0] === '/') {
        return origin + reference;
    }
    const folders = parts[3].split('/').slice(1, -1);
    while (/^\.\.?\//.test(reference)) {
        if (reference[1] === '.') {
            folders.pop();
        }
        reference = reference.slice(reference.indexOf('/') + 1);
    }
    return origin + '/' + folders.concat(reference).join('/');
}

// Where a redirect leads; whether that is followed is the map's to say. The host's usual port is not told.
function redirect(r) {
    const location = (r.variables.upstream_http_location || '').replace(/#.*$/, '');
    const parts = /^(https?:\/\/[^\/?#]*?)(:443)?([\/?].*)?$/i.exec(location && resolved(location, r.variables.asked_url));
    return parts ? parts[1] + (parts[3] || '').replace(/^(?!\/)/, '/') : '';
}

function elsewhere(r) {
    const host = /^[a-z]+:\/\/[A-Za-z0-9.:-]+(?=[\/?]|$)/.exec(r.variables.upstream_http_location || '');
    r.error('upstream redirects to ' + (host ? host[0] : 'no URL') + ', which is none of web_server_upstream_redirects');
    r.return(502, 'Upstream redirects to where this mirror does not follow.\n');
}

// A dot segment (RFC 3986 section 3.3), however it is spelled: what it leads to is elsewhere.
const DOTS = /(^|\/|%2f)(\.|%2e){1,2}(\/|%2f|[?#]|$)/i;

// What a page calls a file, as clients of this mirror are to call it; what is not below upstream's packages/ is not ours.
function ours(url, r) {
    const absolute = resolved(url, r.variables.asked_url);
    const files = r.variables.upstream_files + '/packages/';
    const path = absolute.slice(files.length);
    const root = /^\/simple\//.test(r.uri) ? r.variables.files_root || '' : '';
    return absolute.slice(0, files.length) === files && !DOTS.test(path) ? root + '/packages/' + path : absolute;
}

function isObject(value) {
    return typeof value === 'object' && value !== null && !Array.isArray(value);
}

// Without keys that came later than we know; those with an underscore are the index's own (PEP 700).
function known(value, keys) {
    const kept = {};
    Object.keys(value).forEach((key) => {
        if (keys.indexOf(key) >= 0 || key[0] === '_') {
            kept[key] = value[key];
        }
    });
    return kept;
}

// PEP 792: no status is active; a page that has none that can be passed on says none.
function withStatus(page) {
    const status = page['project-status'];
    if (status !== undefined && !(isObject(status) && typeof status.status === 'string' && STATUS.test(status.status))) {
        delete page['project-status'];
    }
    return page;
}

function isQuarantined(page) {
    return isObject(page['project-status']) && page['project-status'].status === 'quarantined';
}

function file(entry, r) {
    entry.url = ours(entry.url, r);
    if (entry.provenance !== undefined && !(typeof entry.provenance === 'string' && PROVENANCE.test(entry.provenance))) {
        entry.provenance = null;
    }
    return entry;
}

function simpleJson(text, r) {
    let page = JSON.parse(text);
    const version = /^1\.([0-9]{1,9})$/.exec(page.meta['api-version']);
    if (!version) {
        throw new Error('API version ' + page.meta['api-version']);
    }
    if (Number(version[1]) > MINOR) {
        page = known(page, KEYS.page);
        page.meta = known(page.meta, KEYS.meta);
        page.meta['api-version'] = '1.' + MINOR;
        page.files = page.files.map((entry) => known(entry, KEYS.file));
        if (isObject(page['project-status'])) {
            page['project-status'] = known(page['project-status'], KEYS.status);
        }
    }
    withStatus(page);
    page.files = isQuarantined(page) ? [] : page.files.map((entry) => file(entry, r));
    return JSON.stringify(page);
}

// /pypi/NAME/json: no standard says what is in it, so all of it is passed on but what we know.
function legacyJson(text, r) {
    const document = withStatus(JSON.parse(text));
    const hidden = isQuarantined(document);
    const files = (entries) => hidden ? [] : entries.map((entry) => file(entry, r));
    Object.keys(document.releases || {}).forEach((version) => {
        document.releases[version] = files(document.releases[version]);
    });
    if (document.urls) {
        document.urls = files(document.urls);
    }
    return JSON.stringify(document);
}

const ENTITIES = {amp: '&', quot: '"', apos: "'", lt: '<', gt: '>'};

function unescaped(value) {
    return value.replace(/&(?:(amp|quot|apos|lt|gt)|#([0-9]{1,7})|#x([0-9a-f]{1,6}));/gi, (whole, name, decimal, hex) => (
        name ? ENTITIES[name.toLowerCase()] : String.fromCodePoint(decimal ? Number(decimal) : parseInt(hex, 16))
    ));
}

function escaped(value) {
    return value.replace(/&/g, '&amp;').replace(/"/g, '&quot;').replace(/</g, '&lt;').replace(/>/g, '&gt;');
}

const META = /<meta(?=[\s\/])(?:[^>"']|"[^"]*"|'[^']*')*>/gi;
const ANCHOR = /^<a(?=[\s\/])(?:[^>"']|"[^"]*"|'[^']*')*>/i;
const LINK = new RegExp(ANCHOR.source + '[^<]*(?:</a\\s*>)?', 'i');
const ATTRIBUTE = /([\s\/]+)([^\s"'<>\/=]+)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'=<>`]+)))?/g;

// A tag with the values of some attributes replaced by what functions make of them; null takes the attribute away.
function changed(tag, changes) {
    return tag.replace(ATTRIBUTE, (whole, before, name, double, single, bare) => {
        const change = changes[name.toLowerCase()];
        const given = double !== undefined ? double : single !== undefined ? single : bare;
        if (!change || given === undefined) {
            return whole;
        }
        const former = unescaped(given);
        const value = change(former);
        return value === null ? '' : value === former ? whole : before + name + '="' + escaped(value) + '"';
    });
}

// njs replaces in time that grows with the square of a text's length: piece by piece a page takes a hundredth of it.
function links(pieces, change) {
    const made = [];
    let begun = '';
    pieces.forEach((piece) => {
        const isOther = begun === '' && !/^[\s\/]/.test(piece);
        begun += '<a' + piece;
        if (isOther || ANCHOR.test(begun)) {
            made.push(change(begun));
            begun = '';
        }
    });
    return made.join('') + begun;
}

function simpleHtml(text, r) {
    let quarantined = false;
    const pieces = text.split('<A').join('<a').split('<a');
    const head = pieces.shift().replace(META, (tag) => {
        let content = (value) => value;
        changed(tag, {name: (name) => {
            if (name.toLowerCase() === 'pypi:repository-version') {
                content = (version) => /^1\.([5-9]|[1-9][0-9]+)$/.test(version) ? '1.' + MINOR : version;
            } else if (name.toLowerCase() === 'pypi:project-status') {
                content = (status) => {
                    quarantined = quarantined || status === 'quarantined';
                    return STATUS.test(status) ? status : 'active';
                };
            }
            return name;
        }});
        return changed(tag, {content: content});
    });
    const changes = {
        href: (url) => ours(url, r),
        'data-provenance': (url) => PROVENANCE.test(url) ? url : null,
    };
    const link = quarantined ? (piece) => piece.replace(LINK, '')
        : (piece) => piece.replace(ANCHOR, (tag) => changed(tag, changes));
    return head + links(pieces, link);
}

function rendered(text, type, r) {
    if (type === V1_JSON) {
        return simpleJson(text, r);
    }
    if (HTML.indexOf(type) >= 0) {
        return simpleHtml(text, r);
    }
    return /^\/pypi\//.test(r.uri) ? legacyJson(text, r) : text;
}

// One page of upstream, as we pass it on; its validators are those of what it was made of.
function page(r) {
    r.subrequest('/-/page', (reply) => {
        ['Last-Modified', 'X-PyPI-Last-Serial', 'ETag'].forEach((name) => {
            if (reply.headersOut[name]) {
                r.headersOut[name] = reply.headersOut[name];
            }
        });
        if (reply.status !== 200) {
            r.return(reply.status, reply.status === 304 ? '' : 'Upstream answered ' + reply.status + '.\n');
            return;
        }
        const type = (reply.headersOut['Content-Type'] || '').split(';')[0].trim().toLowerCase();
        try {
            const body = rendered(reply.responseText, type, r);
            r.headersOut['Content-Type'] = HTML.indexOf(type) >= 0 ? type + '; charset=utf-8' : type;
            r.return(200, body);
        } catch (error) {
            r.error('upstream\'s page ' + r.uri + ' is none: ' + error.message);
            r.return(502, 'Upstream\'s page is none.\n');
        }
    });
}

export default {elsewhere, encoded, page, redirect};
