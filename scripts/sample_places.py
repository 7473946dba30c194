"""Sample screens, signs, things and views. Every name and number is made up."""

from __future__ import annotations

import numpy as np
from drawing import Page, cloud, exposed, font, gradient, surface
from PIL import Image, ImageDraw, ImageFilter


def status_bar(page: Page, time: str, fill: str = "#111") -> None:
    page.text((60, 30), time, 38, "bold", fill)
    right = page.image.width - 60
    page.draw.rounded_rectangle((right - 62, 36, right, 66), 8, outline=fill, width=3)
    page.draw.rectangle((right - 56, 42, right - 20, 60), fill=fill)
    for bar in range(4):
        x = right - 150 + bar * 16
        page.draw.rectangle((x, 62 - bar * 8, x + 9, 66), fill=fill)


def chat(_: np.random.Generator) -> Page:
    page = Page.blank(1080, 1920, "#ededed")
    status_bar(page, "21:07")
    page.text((540, 104), "周末爬山群(5)", 46, "bold", anchor="ma")
    page.rule(184, 0, 1080, fill="#d5d5d5")
    y = 220
    for mine, who, colour, text in (
        (False, "小林", "#7fa7d8", "明天早上几点集合？"),
        (True, "", "#e0a25c", "七点半，地铁香山站A口见"),
        (False, "阿杰", "#8dbb7c", "记得带身份证和雨衣，天气预报说下午有阵雨"),
        (False, "小林", "#7fa7d8", "收到，我带午饭和矿泉水"),
        (True, "", "#e0a25c", "门票我在网上买好了，一共150元"),
        (False, "阿杰", "#8dbb7c", "OK，转账给你啦"),
        (False, "小雨", "#c98bb4", "我可能晚到十分钟，你们先走"),
    ):
        face = 960 if mine else 40
        page.draw.rounded_rectangle((face, y, face + 80, y + 80), 10, fill=colour)
        top = y
        if who:
            page.text((146, y - 4), who, 28, fill="#888")
            top = y + 40
        lines = page.broken(text, 42, 620, "sans")
        width = max(font("sans", 42).getlength(line) for line in lines) + 56
        left = 934 - width if mine else 146
        bottom = top + 36 + 58 * len(lines)
        bubble = (left, top, left + width, bottom)
        page.draw.rounded_rectangle(bubble, 12, fill="#95ec69" if mine else "#ffffff")
        for i, line in enumerate(lines):
            page.text((left + 28, top + 16 + 58 * i), line, 42)
        y = bottom + 52
    page.draw.rectangle((0, 1780, 1080, 1920), fill="#f6f6f6")
    page.draw.rounded_rectangle((120, 1808, 860, 1888), 10, fill="#ffffff")
    page.draw.ellipse((30, 1812, 102, 1884), outline="#222", width=5)
    page.draw.ellipse((890, 1812, 962, 1884), outline="#222", width=5)
    page.draw.ellipse((980, 1812, 1052, 1884), outline="#222", width=5)
    return page


def payment(_: np.random.Generator) -> Page:
    page = Page.blank(1080, 1920, "#ffffff")
    status_bar(page, "12:31")
    page.text((540, 110), "支付宝", 44, "bold", "#1677ff", "ma")
    page.draw.ellipse((470, 240, 610, 380), fill="#1677ff")
    page.draw.line((502, 312, 530, 340, 582, 280), fill="#ffffff", width=12, joint="curve")
    page.text((540, 420), "付款成功", 54, "bold", anchor="ma")
    page.text((540, 520), "¥68.50", 96, "bold", anchor="ma")
    y = 720
    for label, value in (
        ("收款方", "小城故事咖啡馆"),
        ("付款方式", "招商银行储蓄卡(6021)"),
        ("商品说明", "拿铁咖啡 提拉米苏"),
        ("创建时间", "2026-05-01 12:31:18"),
        ("订单号", "2026050122001400001234"),
    ):
        page.text((70, y), label, 38, fill="#888")
        page.text((1010, y), value, 38, anchor="ra")
        page.rule(y + 82, 70, 1010, fill="#eeeeee")
        y += 110
    page.draw.rounded_rectangle((290, 1600, 790, 1710), 16, outline="#1677ff", width=3)
    page.text((540, 1655), "完成", 44, fill="#1677ff", anchor="mm")
    return page


def road_sign(rng: np.random.Generator) -> Page:
    page = Page(gradient((1600, 1200), "#5f93c9", "#a9c7e2", "#dfe6e6"))
    puffs = (np.clip(cloud(rng, (1600, 1200), (7, 9)), 0, 1) * 150).astype(np.uint8)
    page.image.paste(Image.new("RGB", (1600, 1200), "#ffffff"), (0, 0), Image.fromarray(puffs))
    draw = page.draw
    draw.polygon([(0, 1020), (500, 930), (1600, 1000), (1600, 1200), (0, 1200)], fill="#6c8258")
    draw.polygon([(120, 1200), (760, 940), (850, 940), (1500, 1200)], fill="#5a5c60")
    for near in (0.05, 0.3, 0.6):
        top, bottom = 940 + 260 * near, 940 + 260 * (near + 0.14)
        draw.polygon(
            [(803, top), (807, top), (815, bottom), (795, bottom)],
            fill="#e8e8e0",
        )
    for x in (330, 1250):
        draw.rectangle((x, 150, x + 26, 1010), fill="#8c9196")
    draw.rounded_rectangle((150, 120, 1450, 740), 30, fill="#0f7a52")
    draw.rounded_rectangle((166, 136, 1434, 724), 24, outline="#ffffff", width=8)
    white = "#ffffff"
    page.text((230, 190), "南京市长江大桥", 110, "bold", white)
    page.text((230, 330), "Nanjing Yangtze River Bridge", 56, "sans", white)
    page.text((230, 450), "玄武湖", 90, "bold", white)
    page.text((700, 450), "机场高速", 90, "bold", white)
    page.text((230, 600), "出口 EXIT 12", 76, "bold", "#ffe26a")
    page.text((1370, 600), "1km", 80, "bold", white, "ra")
    return Page(exposed(page.image, rng, blur=1.0, light=0.05), page.lines)


def shop_sign(rng: np.random.Generator) -> Page:
    page = Page(surface(rng, (1440, 1200), "#9c8a7a"))
    draw = page.draw
    for y in range(0, 1200, 50):
        draw.line((0, y, 1440, y), fill="#8d7b6c", width=3)
        for x in range(-60 * (y // 50 % 2), 1440, 120):
            draw.line((x, y, x, y + 50), fill="#8d7b6c", width=3)
    draw.rectangle((70, 120, 1370, 400), fill="#6b2038")
    draw.rectangle((70, 120, 1370, 400), outline="#d9b86c", width=8)
    page.text((720, 145), "鲜花生日蛋糕", 150, "serif-bold", "#ffe9b0", "ma")
    page.text((720, 335), "FLOWERS & BIRTHDAY CAKES", 40, "sans", "#ffe9b0", "ma")
    glass = gradient((560, 560), "#f3d9a0", "#c9955c", "#5b4636")
    page.image.paste(glass, (110, 480))
    draw.rectangle((110, 480, 670, 1040), outline="#3a2a22", width=14)
    for x, colour in ((200, "#d84a6a"), (330, "#f0b429"), (460, "#e88fb0"), (560, "#b14ac0")):
        draw.line((x, 900, x, 1020), fill="#2f6b3a", width=8)
        for dx, dy in ((0, -28), (26, -8), (16, 22), (-16, 22), (-26, -8)):
            draw.ellipse((x + dx - 24, 880 + dy - 24, x + dx + 24, 880 + dy + 24), fill=colour)
    page.text((390, 540), "当日配送 同城两小时达", 42, "bold", "#5c1f30", "ma")
    draw.rectangle((760, 460, 1130, 1200), fill="#4a3328")
    draw.rectangle((800, 500, 1090, 900), fill="#b9a98f")
    page.text((945, 560), "推 PUSH", 50, "bold", "#3b2a20", "ma")
    page.text((945, 660), "营业中", 64, "bold", "#a02020", "ma")
    page.text((945, 780), "08:30—21:00", 40, "sans", "#3b2a20", "ma")
    draw.rectangle((1170, 560, 1340, 860), fill="#f6f1e4")
    page.text((1255, 590), "招聘", 54, "bold", "#b02020", "ma")
    page.text((1255, 680), "花艺师", 40, "sans", "#222", "ma")
    page.text((1255, 760), "面议", 40, "sans", "#222", "ma")
    draw.rectangle((0, 1150, 1440, 1200), fill="#77716b")
    return Page(exposed(page.image, rng, blur=1.0, light=0.18), page.lines)


def whiteboard(rng: np.random.Generator) -> Page:
    page = Page.blank(1500, 1000, "#eef0f0")
    page.image.paste(Image.new("RGB", (1500, 1000), "#b5babd"))
    page.image.paste(surface(rng, (1440, 940), "#eceeed").filter(ImageFilter.BoxBlur(40)), (30, 30))
    blue, red, black = "#24409a", "#c22f2f", "#2a2a2e"
    page.text((90, 80), "周三例会 4月15日", 76, "hand-bold", blue)
    page.draw.line((90, 184, 700, 190), fill=blue, width=6)
    y = 230
    for text in (
        "1. 搜索服务上线：下周一",
        "2. 数据库备份 → 每天凌晨3点",
        "3. 修复登录页面的bug",
        "4. 预算申请：8万元",
    ):
        page.text((100 + rng.integers(-8, 8), y), text, 62, "hand", black)
        y += 104
    page.text((100, 680), "截止日期！4月30日", 72, "hand-bold", red)
    page.draw.ellipse((60, 650, 780, 800), outline=red, width=6)
    for x, text in ((960, "客户端"), (960, "网关"), (960, "数据库")):
        top = 250 + 190 * ("客户端", "网关", "数据库").index(text)
        page.draw.rounded_rectangle((x, top, x + 340, top + 110), 14, outline=blue, width=5)
        page.text((x + 170, top + 55), text, 58, "hand", blue, "mm")
        if text != "数据库":
            page.draw.line((x + 170, top + 112, x + 170, top + 186), fill=blue, width=5)
            page.draw.line((x + 150, top + 162, x + 170, top + 186), fill=blue, width=5)
            page.draw.line((x + 190, top + 162, x + 170, top + 186), fill=blue, width=5)
    page.text((1380, 880), "负责人：阿杰", 48, "hand", black, "ra")
    return page


def medicine_box(_: np.random.Generator) -> Page:
    page = Page.blank(1300, 760, "#fafcfb")
    page.draw.polygon([(0, 560), (1300, 460), (1300, 760), (0, 760)], fill="#2a9d8f")
    page.draw.polygon([(0, 530), (1300, 430), (1300, 460), (0, 560)], fill="#f2b84b")
    page.draw.rounded_rectangle((60, 50, 200, 96), 8, outline="#c43434", width=4)
    page.text((130, 73), "处方药", 30, "bold", "#c43434", "mm")
    page.text((60, 116), "阿莫西林胶囊", 112, "bold", "#14564e")
    page.text((64, 262), "Amoxicillin Capsules", 50, "sans", "#14564e")
    page.text((64, 346), "规格：0.25g × 24粒", 40)
    page.text((64, 404), "口服，一次2粒，一日3次", 40)
    page.text((1240, 60), "国药准字H00000000", 32, anchor="ra")
    page.text((1240, 346), "青霉素过敏者禁用", 44, "bold", "#c43434", "ra")
    page.text((60, 610), "密封，在阴凉干燥处保存", 38, fill="#ffffff")
    page.text((60, 676), "生产批号 250611　有效期至 2027年05月", 36, fill="#ffffff")
    page.text((1240, 640), "华康制药", 54, "bold", "#ffffff", "ra")
    return page


def mountains(rng: np.random.Generator) -> Page:
    size = (1600, 1067)
    picture = gradient(size, "#3e6fae", "#9cc3e0", "#f2dcc0", "#f2dcc0")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((1130, 330, 1240, 440), fill="#fff3d6")
    x = np.arange(size[0])
    for layer, colour in enumerate(("#93a9bd", "#6f8aa0", "#4d6b78", "#35524f", "#243c33")):
        ridge = (
            520
            + 95 * layer
            + sum(
                (80 / k) * np.sin(x * k / (260 - 20 * layer) + rng.uniform(0, 6))
                for k in (1, 2.3, 5.1)
            )
        )
        slope = zip(x.tolist(), ridge.tolist(), strict=True)
        draw.polygon([(0, 1067), *slope, (1600, 1067)], fill=colour)
    return Page(exposed(picture, rng, blur=1.2, light=0.04))


def sea(rng: np.random.Generator) -> Page:
    size = (1500, 1000)
    picture = gradient(size, "#2f2c5a", "#9a4f6f", "#f09a5a", "#fbd38a")
    water = gradient((1500, 430), "#d98a5c", "#5d4a6d", "#23264a")
    waves = 16 * cloud(rng, (1500, 430), (10, 90))[..., None]
    rippled = np.clip(np.array(water) + waves, 0, 255).astype(np.uint8)
    picture.paste(Image.fromarray(rippled), (0, 570))
    glow = Image.new("L", size)
    ImageDraw.Draw(glow).ellipse((640, 460, 860, 680), fill=255)
    ImageDraw.Draw(glow).rectangle((0, 570, 1500, 1000), fill=0)
    for y in range(580, 1000, 14):
        half = int(100 - (y - 580) * 0.12 + rng.integers(-40, 40))
        ImageDraw.Draw(glow).line((750 - half, y, 750 + half, y), fill=120, width=5)
    soft = glow.filter(ImageFilter.GaussianBlur(3))
    picture.paste(Image.new("RGB", size, "#ffe9b8"), (0, 0), soft)
    boat = ImageDraw.Draw(picture)
    boat.polygon([(300, 600), (420, 600), (395, 630), (320, 630)], fill="#1d1a2b")
    boat.polygon([(355, 480), (355, 594), (420, 590)], fill="#2a2540")
    return Page(exposed(picture, rng, blur=1.0, light=0.05))
