"""nginx.conf: the door through which sites reach the SuperLink, and nothing of it but what a registered site calls."""

from string import Template

CALLS = (
    "activate-node",
    "deactivate-node",
    "send-node-heartbeat",
    "pull-messages",
    "push-messages",
    "get-run",
    "get-fab",
    "push-object",
    "pull-object",
    "confirm-message-received",
)
"""What a registered SuperNode asks of /v1/fleet; the two calls left out register nodes without the operator."""

_CONF = Template("""\
# Sites come in here and reach /v1/fleet/* of the SuperLink, nothing else: whoever reaches the rest of it controls the
# federation. Paths are relative to this file's folder. Start: nginx -e stderr -p $$PWD -c nginx.conf
worker_processes auto;
pid nginx/nginx.pid;
error_log stderr warn;
events { worker_connections 1024; }

http {
    access_log nginx/access.log;
    server_tokens off;
    client_body_temp_path nginx/body;
    proxy_temp_path nginx/proxy;
    fastcgi_temp_path nginx/fastcgi;
    uwsgi_temp_path nginx/uwsgi;
    scgi_temp_path nginx/scgi;

    upstream superlink {
        server 127.0.0.1:$inner;
        keepalive 32;
    }

    server {
        listen $port ssl;
        # listen [::]:$port ssl;
        ssl_certificate server.pem;
        ssl_certificate_key server.key;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_session_cache shared:sites:4m;
        keepalive_timeout 75s;

        # Models travel in pieces of some megabytes, however large they are.
        client_max_body_size 64m;
        client_header_timeout 30s;
        client_body_timeout 300s;
        send_timeout 300s;

        location ~ ^/v1/fleet/(?<call>$calls)$$ {
            limit_except POST { deny all; }
            proxy_pass https://superlink/v1/fleet/$$call;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host localhost;
            proxy_set_header X-Forwarded-For $$remote_addr;
            proxy_set_header X-Forwarded-Proto https;
            # Node authentication needs a SuperLink with TLS, so this hop has it too.
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate ca.pem;
            proxy_ssl_name localhost;
            proxy_ssl_server_name on;
            proxy_request_buffering off;
            proxy_buffering on;
            proxy_max_temp_file_size 0;
            proxy_connect_timeout 10s;
            proxy_send_timeout 300s;
            proxy_read_timeout 300s;
            proxy_next_upstream off;
        }

        location / { return 404; }
    }
}
""")


def nginx(port: int, inner: int) -> str:
    """The configuration for sites on `port` and a SuperLink on 127.0.0.1:`inner`."""
    return _CONF.substitute(port=port, inner=inner, calls="|".join(CALLS))
