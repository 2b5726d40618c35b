# For scripts to source: which files Compose mounts as secrets. Compose alone knows where it takes its settings from
# (.env, COMPOSE_FILE, COMPOSE_ENV_FILES, the environment), so it is asked.

# Print a line for each secret: its name, a space, the file. Ends with an error, which Compose tells, where a setting is
# missing.
mounted_secrets() {
    # In two steps: a pipe would hide that Compose failed.
    mounted_config=$(docker compose config) || return 1
    printf '%s\n' "$mounted_config" | awk -v quote="'" '
        /^[^ ]/ { in_secrets = ($0 == "secrets:") }
        in_secrets && /^  [^ ]/ { name = $1; sub(/:$/, "", name) }
        in_secrets && /^    file: / {
            sub(/^    file: /, "")
            if (substr($0, 1, 1) == quote) {
                $0 = substr($0, 2, length($0) - 2)
                gsub(quote quote, quote)
            }
            print name, $0
        }'
}

# Print the file of one secret, out of such lines.
mounted_file() { printf '%s\n' "$1" | sed -n "s/^$2 //p"; }
