from django.apps import AppConfig


class ProxyConfig(AppConfig):
    name = "proxy"

    def ready(self) -> None:
        from conversations import forgetting
        from proxy import memory

        forgetting.bring_in.append(memory.store_spool)  # what waits in the spool is forgotten with the rest
