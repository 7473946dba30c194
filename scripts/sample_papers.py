"""Sample papers: receipts, tickets, menus, letters … Every name and number is made up."""

from __future__ import annotations

import numpy as np
from drawing import Page
from PIL import Image, ImageDraw


def supermarket_receipt(rng: np.random.Generator) -> Page:
    page = Page.blank(640, 1180, "#f7f6f1")
    page.text((320, 40), "家家乐超市", 54, "bold", anchor="ma")
    page.text((320, 112), "朝阳区建国路店", 30, anchor="ma")
    page.text((40, 170), "单号: 20260314-00872", 26, "mono")
    page.text((40, 208), "时间: 2026-03-14 18:26:05", 26, "mono")
    page.text((40, 246), "收银员: 007", 26, "mono")
    page.rule(290, 40, 600, 8)
    page.row(304, [(40, "商品名称", "la"), (420, "数量", "ra"), (600, "金额", "ra")], 27, "bold")
    goods = [
        ("五香花生米 500g", "1", "12.80"),
        ("纯牛奶 250ml*12", "2", "79.80"),
        ("红富士苹果", "1.325", "15.77"),
        ("土鸡蛋 30枚", "1", "36.90"),
        ("东北大米 5kg", "1", "45.00"),
        ("抽纸 3层*6包", "1", "19.90"),
        ("老陈醋 420ml", "1", "8.50"),
        ("挂面 1kg", "2", "13.80"),
    ]
    y = 352
    for name, count, price in goods:
        page.row(y, [(40, name, "la"), (420, count, "ra"), (600, price, "ra")], 27, "mono")
        y += 46
    page.rule(y + 8, 40, 600, 8)
    page.row(y + 24, [(40, "件数: 10", "la"), (600, "合计: 232.47", "ra")], 30, "bold")
    page.row(y + 74, [(40, "会员优惠", "la"), (600, "-12.47", "ra")], 28, "mono")
    page.row(y + 118, [(40, "实付金额", "la"), (600, "¥220.00", "ra")], 36, "bold")
    page.text((40, y + 180), "支付方式: 微信支付", 28, "mono")
    page.rule(y + 232, 40, 600, 8)
    page.barcode((110, y + 252, 530, y + 330), rng)
    page.text((320, y + 342), "谢谢惠顾 欢迎再次光临", 28, anchor="ma")
    page.text((320, y + 386), "凭小票七日内退换", 26, anchor="ma")
    return page


def hotpot_bill(_: np.random.Generator) -> Page:
    page = Page.blank(720, 1060, "#f9f7f3")
    page.text((360, 36), "海底捞火锅", 56, "serif-bold", anchor="ma")
    page.text((360, 116), "结账单", 38, "bold", anchor="ma")
    page.row(184, [(44, "桌号: A16", "la"), (676, "人数: 4", "ra")], 28)
    page.text((44, 228), "日期: 2026年2月8日 19:42", 28)
    page.rule(278, 44, 676)
    page.row(294, [(44, "菜品", "la"), (480, "份数", "ra"), (676, "小计", "ra")], 28, "bold")
    dishes = [
        ("番茄牛油鸳鸯锅", "1", "98.00"),
        ("捞派肥牛", "2", "136.00"),
        ("虾滑", "1", "68.00"),
        ("鲜毛肚", "1", "72.00"),
        ("手工面", "2", "24.00"),
        ("冻豆腐", "1", "18.00"),
        ("时蔬拼盘", "1", "36.00"),
        ("酸梅汤", "4", "40.00"),
        ("自助小料", "4", "48.00"),
    ]
    y = 346
    for name, count, price in dishes:
        page.row(y, [(44, name, "la"), (480, count, "ra"), (676, price, "ra")], 29)
        y += 48
    page.rule(y + 8, 44, 676)
    page.row(y + 28, [(44, "消费合计", "la"), (676, "540.00", "ra")], 32, "bold")
    page.row(y + 80, [(44, "优惠券", "la"), (676, "-50.00", "ra")], 29)
    page.row(y + 126, [(44, "应收金额", "la"), (676, "¥490.00", "ra")], 38, "bold")
    page.text((360, y + 210), "扫码开发票 30天内有效", 27, anchor="ma")
    return page


def invoice(rng: np.random.Generator) -> Page:
    page, ink = Page.blank(1500, 960, "#fdfdfd"), "#7a3b1e"
    page.text((750, 46), "电子发票（增值税专用发票）", 48, "serif-bold", ink, "ma")
    page.rule(118, 430, 1070, fill=ink)
    page.rule(124, 430, 1070, fill=ink)
    page.text((1090, 60), "发票号码：", 24, "serif", ink)
    page.text((1205, 62), "26112000000087654321", 22, "mono")
    page.text((1090, 100), "开票日期：", 24, "serif", ink)
    page.text((1205, 100), "2026年01月20日", 24)
    page.squares((60, 36, 164, 140), 25, rng)
    for box in ((50, 170, 1450, 330), (50, 330, 1450, 660), (50, 660, 1450, 730)):
        page.draw.rectangle(box, outline=ink, width=2)
    page.draw.rectangle((50, 730, 1450, 830), outline=ink, width=2)
    page.draw.line((750, 170, 750, 330), fill=ink, width=2)
    for x, side, name, number in (
        (70, "购买方信息", "北京晨光科技有限公司", "91110105MA00ABCD1E"),
        (770, "销售方信息", "南京江畔办公用品有限公司", "91320106MA00WXYZ2F"),
    ):
        page.text((x, 184), side, 24, "serif-bold", ink)
        page.text((x, 228), "名称：", 24, "serif", ink)
        page.text((x + 80, 228), name, 24)
        page.text((x, 276), "统一社会信用代码：", 24, "serif", ink)
        page.text((x + 225, 276), number, 24, "mono")
    columns = [(70, "la"), (460, "la"), (650, "la"), (850, "ra"), (1010, "ra"), (1200, "ra")]
    heads = ("项目名称", "规格型号", "单位", "数量", "单价", "金额")
    page.row(346, [(x, h, a) for (x, a), h in zip(columns, heads, strict=True)], 24, "serif", ink)
    page.row(346, [(1430, "税额", "ra")], 24, "serif", ink)
    goods = [
        ("*纸制品*复印纸", "A4 70g", "箱", "20", "125.00", "2500.00", "325.00"),
        ("*文具*中性笔", "0.5mm", "盒", "15", "24.00", "360.00", "46.80"),
        ("*电子设备*键盘", "K380", "个", "8", "149.00", "1192.00", "154.96"),
    ]
    for i, goods_row in enumerate(goods):
        cells = zip([*columns, (1430, "ra")], goods_row, strict=True)
        page.row(396 + 48 * i, [(x, text, a) for (x, a), text in cells], 24)
    page.row(
        610, [(70, "合计", "la"), (1200, "¥4052.00", "ra"), (1430, "¥526.76", "ra")], 26, "bold"
    )
    page.row(678, [(70, "价税合计（大写）", "la")], 26, "serif", ink)
    page.row(678, [(330, "肆仟伍佰柒拾捌元柒角陆分", "la")], 26, "bold")
    page.row(678, [(1100, "（小写）¥4578.76", "la")], 26, "bold")
    page.text((70, 746), "备注：合同编号 HT-2026-0118", 24)
    page.text((70, 850), "开票人：李娜", 26)
    seal = Image.new("L", page.image.size)
    stamp = ImageDraw.Draw(seal)
    stamp.ellipse((1140, 745, 1400, 915), outline=190, width=7)
    page.image.paste(Image.new("RGB", page.image.size, "#d2202a"), (0, 0), seal)
    page.text((1270, 830), "发票专用章", 32, "bold", "#d64048", "mm")
    return page


def train_ticket(rng: np.random.Generator) -> Page:
    page = Page.blank(1120, 700, "#dcebf6")
    for y in range(0, 700, 14):
        page.draw.line((0, y, 1120, y + 60), fill="#d0e4f2", width=2)
    page.draw.rectangle((0, 610, 1120, 700), fill="#a9cfe8")
    page.text((50, 40), "Z156A032187", 38, "mono", "#c43c3c")
    page.text((1070, 40), "检票:12B", 36, anchor="ra")
    page.row(110, [(70, "北京南站", "la"), (1050, "上海虹桥站", "ra")], 66, "bold")
    page.text((560, 118), "G123", 56, "bold", anchor="ma")
    page.draw.line((440, 196, 680, 196), fill="#222", width=4)
    page.draw.line((655, 182, 680, 196), fill="#222", width=4)
    page.row(206, [(90, "Beijingnan", "la"), (1020, "Shanghaihongqiao", "ra")], 32)
    page.row(278, [(60, "2026年03月15日 09:00开", "la"), (1060, "05车06F号", "ra")], 42)
    page.row(348, [(60, "￥553.0元", "la"), (1060, "二等座", "ra")], 42)
    page.text((60, 418), "限乘当日当次车", 36)
    page.text((60, 482), "1101011990****123X 王小明", 38, "mono")
    page.text((340, 556), "买票请到12306 发货请到95306", 30, anchor="la")
    page.squares((890, 414, 1060, 584), 29, rng)
    page.text((60, 634), "65773311560315Z032187 北京南售", 32, "mono")
    return page


def noodle_menu(_: np.random.Generator) -> Page:
    page = Page.blank(1000, 1330, "#fbf3e0")
    page.draw.rectangle((0, 0, 1000, 190), fill="#a3271f")
    page.text((500, 44), "老城面馆", 84, "serif-bold", "#fdf0cf", "ma")
    page.text((500, 148), "LAO CHENG NOODLES", 26, "sans", "#fdf0cf", "ma")
    menu = {
        "面食": [
            ("兰州牛肉面", 18),
            ("红烧排骨面", 26),
            ("西红柿鸡蛋面", 16),
            ("重庆小面", 15),
            ("炸酱面", 17),
        ],
        "凉菜": [("拍黄瓜", 12), ("老醋花生", 14), ("口水鸡", 32)],
        "小吃": [("肉夹馍", 13), ("锅贴（10个）", 20), ("糖醋里脊", 38)],
        "饮料": [("豆浆", 5), ("北冰洋汽水", 7), ("青岛啤酒", 10)],
    }
    y = 214
    for title, dishes in menu.items():
        page.text((90, y), title, 40, "bold", "#a3271f")
        y += 58
        for name, price in dishes:
            right = page.text((120, y), name, 34, "serif")
            page.rule(y + 34, right + 16, 790, 5, "#b79b78")
            page.text((910, y), f"{price}元", 34, "serif", anchor="ra")
            y += 49
        y += 24
    page.text((500, 1280), "电话 010-55550188", 28, fill="#7c5a34", anchor="ma")
    return page


def tea_menu(_: np.random.Generator) -> Page:
    page = Page.blank(1000, 1340, "#24453a")
    cream = "#f4ead2"
    page.draw.rectangle((36, 36, 964, 1304), outline="#c9b27c", width=4)
    page.text((500, 84), "臺灣茶樓", 88, "serif-tc", cream, "ma")
    page.text((500, 206), "Taiwan Tea House", 34, "serif", "#c9b27c", "ma")
    menu = {
        "茶飲": [("珍珠奶茶", 65), ("凍頂烏龍茶", 55), ("檸檬綠茶", 50), ("薑汁豆漿", 45)],
        "點心": [("蘿蔔糕", 60), ("鮮蝦燒賣", 85), ("叉燒酥", 70), ("雞肉飯", 75)],
        "湯麵": [("紅燒牛肉麵", 160), ("擔仔麵", 70), ("餛飩湯", 80)],
    }
    y = 270
    for title, dishes in menu.items():
        page.text((110, y), title, 46, "serif-tc", "#e3c778")
        y += 70
        for name, price in dishes:
            page.text((150, y), name, 42, "sans-tc", cream)
            page.text((880, y), f"NT${price}", 38, "sans", cream, "ra")
            y += 58
        y += 20
    page.text((500, 1222), "營業時間 11:00～21:00　週二公休", 32, "sans-tc", "#c9b27c", "ma")
    return page


def bilingual_table(_: np.random.Generator) -> Page:
    page = Page.blank(1360, 900, "#fcfcfc")
    page.text((680, 40), "2026年第一季度销售统计表", 46, "bold", anchor="ma")
    page.text((680, 106), "Sales Report, First Quarter 2026", 32, anchor="ma", fill="#555")
    rows = [
        ("产品 Product", "一月 Jan", "二月 Feb", "三月 Mar", "合计 Total"),
        ("笔记本电脑 Laptop", "1,204", "986", "1,532", "3,722"),
        ("显示器 Monitor", "845", "790", "1,011", "2,646"),
        ("机械键盘 Keyboard", "2,310", "1,875", "2,468", "6,653"),
        ("无线鼠标 Mouse", "3,120", "2,642", "3,305", "9,067"),
        ("路由器 Router", "417", "398", "520", "1,335"),
        ("打印机 Printer", "268", "231", "305", "804"),
    ]
    edges = [50, 450, 660, 870, 1080, 1310]
    for i, cells in enumerate(rows):
        top = 176 + 84 * i
        if i == 0:
            page.draw.rectangle((50, top, 1310, top + 84), fill="#d7e4f3")
        for left, right, text in zip(edges, edges[1:], cells, strict=False):
            page.draw.rectangle((left, top, right, top + 84), outline="#666", width=2)
            where = (left + 20, top + 42) if left == 50 else (right - 20, top + 42)
            page.text(where, text, 32, "bold" if i == 0 else "sans", anchor=("lm", "rm")[left > 50])
    page.text((50, 800), "单位：台 Unit: pieces　制表：财务部 Finance Dept.", 28, fill="#444")
    return page


def book_page(_: np.random.Generator) -> Page:
    page = Page.blank(1000, 1380, "#f3ecda")
    page.text((500, 70), "第三章　河边的老房子", 44, "serif-bold", anchor="ma")
    y = 180.0
    for text in (
        "　　村口有一座石桥，桥下的水四季不断。春天雪化的时候，河水涨得很高，几乎漫到桥面上来；"
        "到了秋天，水又清又浅，能看见水底的石子和小鱼。",
        "　　外婆的房子就在桥的那一头。木头的门窗已经旧了，墙上爬满了牵牛花。每年暑假，"
        "我都坐半天的长途汽车来这里住上一个月。",
        "　　“慢点走，别把鞋弄湿了。”外婆总是站在门口这样喊。我嘴上答应着，脚却早已踩进水里去了。",
        "　　傍晚，大人们搬出竹椅坐在院子里乘凉，说着收成和天气。萤火虫从稻田里飞起来，"
        "一闪一闪，像是落到地上的星星。",
    ):
        y = page.paragraph((110, y), text, 36, 790, "serif", "#2b2620", 1.75)
    page.text((500, 1310), "— 47 —", 28, "serif", "#2b2620", "ma")
    return page


def english_letter(_: np.random.Generator) -> Page:
    page = Page.blank(1000, 1300, "#fbf9f4")
    page.text((90, 90), "Harbour Lane Library", 46, "serif-bold")
    page.text((90, 156), "12 Harbour Lane, Bristol", 28, "serif", "#555")
    page.rule(206, 90, 910)
    page.text((90, 240), "5 March 2026", 30, "serif")
    page.text((90, 310), "Dear reader,", 34, "serif")
    y = 380.0
    for text in (
        "Thank you for renewing your library card. It is valid until 31 March 2028 and "
        "lets you borrow up to twelve books at a time.",
        "Our spring exhibition of old maps opens on Saturday. Admission is free, and "
        "coffee will be served in the garden if the weather is kind to us.",
        "Two of your books, The Silent River and A Short History of Clocks, are due "
        "back next week. You can renew them online or at the front desk.",
    ):
        y = page.paragraph((90, y), text, 33, 820, "serif", leading=1.55) + 26
    page.text((90, y + 20), "Yours sincerely,", 34, "serif")
    page.text((90, y + 84), "Margaret Hollis", 46, "hand")
    page.text((90, y + 152), "Head Librarian", 30, "serif")
    return page


def boarding_pass(rng: np.random.Generator) -> Page:
    page = Page.blank(1300, 560, "#fcfcfc")
    page.draw.rectangle((0, 0, 1300, 96), fill="#1d4f91")
    page.text((40, 20), "BOARDING PASS", 44, "bold", "#ffffff")
    page.text((500, 20), "登机牌", 44, "bold", "#ffffff")
    page.text((1260, 26), "ECONOMY 经济舱", 32, "sans", "#ffffff", "ra")
    grey = "#667"
    for x, y, label, value in (
        (40, 124, "NAME 姓名", "WANG/XIAOMING"),
        (470, 124, "FLIGHT 航班", "CA1857"),
        (720, 124, "DATE 日期", "18APR"),
        (40, 254, "FROM 始发", "BEIJING PEK"),
        (470, 254, "TO 到达", "SHANGHAI SHA"),
        (40, 384, "GATE 登机口", "C23"),
        (300, 384, "BOARDING 登机时间", "07:50"),
        (650, 384, "SEAT 座位", "31K"),
    ):
        page.text((x, y), label, 26, fill=grey)
        page.text((x, y + 38), value, 46, "bold")
    for y in range(110, 560, 22):
        page.draw.line((960, y, 960, y + 10), fill="#999", width=3)
    page.barcode((1000, 130, 1260, 250), rng)
    page.text((1000, 280), "SEQ 086", 34, "mono")
    page.text((1000, 340), "ETKT 9990000000001", 26, "mono")
    page.text((40, 506), "登机口于起飞前15分钟关闭", 28, fill="#b02a2a")
    return page


def business_card(_: np.random.Generator) -> Page:
    """Grey on grey: the low-contrast sample."""
    page, ink = Page.blank(1100, 640, "#c9c8c4"), "#a3a29d"
    page.text((90, 90), "陈思远", 76, "serif-bold", ink)
    page.text((340, 130), "产品经理", 36, "sans", ink)
    page.rule(212, 90, 1010, fill=ink)
    page.text((90, 250), "杭州云帆软件有限公司", 44, "bold", ink)
    page.text((90, 350), "手机 139 0000 5678", 36, "sans", ink)
    page.text((90, 410), "邮箱 siyuan@example.com", 36, "sans", ink)
    page.text((90, 470), "地址 杭州市西湖区文三路 88 号", 36, "sans", ink)
    return page


def parking_slip(_: np.random.Generator) -> Page:
    """The small, low-resolution sample."""
    page = Page.blank(400, 300, "#f4f3ee")
    page.text((200, 18), "停车缴费凭证", 30, "bold", anchor="ma")
    page.text((30, 72), "车牌号：苏A·RE168", 22)
    page.text((30, 106), "入场：2026/04/02 10:15", 20)
    page.text((30, 138), "出场：2026/04/02 12:40", 20)
    page.text((30, 170), "停车时长：2小时25分", 20)
    page.text((30, 204), "应付：15.00元", 24, "bold")
    page.text((200, 254), "南京新街口地下停车场", 18, anchor="ma")
    return page
